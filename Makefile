# dpo.h - make demo, make test; CC, CFLAGS, PREFIX as usual. Nothing but a C compiler and make is needed.
CC ?= cc
CXX ?= c++
CFLAGS ?= -O2
PREFIX ?= /usr/local
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
STD = -std=c99
LIBS = -lm -lpthread
B = build
T = $(B)/tests
STUDY = $(B)/study
EXAMPLES = hello sft dpo lora step own_loss own_data layers
PROGRAMS = $(B)/dpo-train $(B)/dpo-tokenize $(B)/dpo-chat $(B)/dpo-convert $(B)/dpo-judge \
    $(B)/dpo-report $(B)/dpo-eval $(B)/dpo-bench
FORMATS = $(wildcard tools/*.h tools/formats/*.h)

all: $(PROGRAMS) $(EXAMPLES:%=$(B)/%)

# The implementation is compiled once, as any user would.
$(B)/dpo.o: dpo.h
	@mkdir -p $(B)
	$(CC) $(STD) $(CFLAGS) $(WARN) -DDPO_IMPLEMENTATION -x c -c dpo.h -o $@
$(B)/dpo-%: tools/dpo-%.c $(B)/dpo.o $(FORMATS)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)
$(B)/dpo-judge: examples/world.h
$(B)/%: examples/%.c $(B)/dpo.o examples/world.h $(FORMATS)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)

demo: $(B)/demo
	$(B)/demo

# The whole study on the little world, or MODEL=dir DATA=dir; QUICK=1 is a rehearsal. What is done is not done again.
STUDIED = $(STUDY)$(if $(MODEL),/given)
study: $(STUDY)/study $(B)/dpo-report
	rm -rf $(STUDIED)/runs
	$(STUDY)/study $(if $(QUICK),--quick) $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA)) --output $(STUDIED)
	$(B)/dpo-report $(STUDIED)/runs/dpo-*-beta-* $(STUDIED)/runs/dpo-*-bf16* --study $(STUDIED)/study.json \
	    --output $(STUDIED)/report.html
$(STUDY)/study: examples/study.c examples/study_tables.h examples/world.h $(B)/dpo.o $(FORMATS)
	@mkdir -p $(STUDY)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)

FORMAT_TESTS = $(T)/formats $(T)/tokenizers $(T)/torch $(T)/gguf $(T)/tensorboard $(T)/report \
    $(T)/eval

# --- tests -------------------------------------------------------------------------------------------
$(T)/golden $(T)/badinput $(T)/stories: $(T)/%: tests/%.c $(B)/dpo.o $(wildcard tests/*.h) $(FORMATS)
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)
$(FORMAT_TESTS): $(T)/%: tests/test_%.c $(B)/dpo.o $(wildcard tests/*.h) $(FORMATS)
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)
$(T)/report: tools/dpo-report.c
$(T)/resume: tests/resume.c
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $<
$(T)/test: tests/test.c dpo.h $(wildcard tests/*.h) tools/checkpoint.h examples/world.h
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(LIBS)

test: all $(B)/demo $(STUDY)/study $(T)/golden $(T)/test $(T)/badinput $(FORMAT_TESTS) $(T)/stories $(T)/resume
	sh tests/run.sh

# Files of PyTorch read, files for PyTorch written, where PyTorch is there.
$(T)/interop-dump: tests/interop/dump.c $(B)/dpo.o $(FORMATS)
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)
interop: $(B)/dpo-train $(T)/golden $(T)/interop-dump
	sh tests/interop/run.sh

# The long matrix: compilers, standards, sanitizers, valgrind.
check: all
	sh tests/check.sh

install: all
	mkdir -p $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/bin
	cp dpo.h $(DESTDIR)$(PREFIX)/include/
	cp $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/

clean:
	rm -rf $(B)

.PHONY: all demo study test interop check install clean
.SECONDARY:
