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
EXAMPLES = hello sft dpo lora step own_loss own_data layers
PROGRAMS = $(B)/dpo-train $(B)/dpo-tokenize $(B)/dpo-chat $(B)/dpo-bench $(B)/dpo-eval
FORMATS = $(wildcard tools/*.h tools/formats/*.h)

all: $(PROGRAMS) $(EXAMPLES:%=$(B)/%)

# The implementation is compiled once, as any user would.
$(B)/dpo.o: dpo.h
	@mkdir -p $(B)
	$(CC) $(STD) $(CFLAGS) $(WARN) -DDPO_IMPLEMENTATION -x c -c dpo.h -o $@
$(B)/dpo-%: tools/dpo-%.c $(B)/dpo.o $(FORMATS)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)
$(B)/%: examples/%.c $(B)/dpo.o examples/world.h $(FORMATS)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)

demo: $(B)/demo
	$(B)/demo

# --- tests -------------------------------------------------------------------------------------------
$(T)/golden $(T)/badinput $(T)/stories: $(T)/%: tests/%.c $(B)/dpo.o $(wildcard tests/*.h)
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)
$(T)/formats $(T)/tokenizers $(T)/eval: $(T)/%: tests/test_%.c $(B)/dpo.o $(wildcard tests/*.h) $(FORMATS)
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(B)/dpo.o $(LIBS)
$(T)/test: tests/test.c dpo.h $(wildcard tests/*.h)
	@mkdir -p $(T)
	$(CC) $(STD) $(CFLAGS) $(WARN) -o $@ $< $(LIBS)

test: all $(B)/demo $(T)/golden $(T)/test $(T)/badinput $(T)/formats $(T)/tokenizers $(T)/stories $(T)/eval
	sh tests/run.sh

# The long matrix: compilers, standards, sanitizers, valgrind.
check: all
	sh tests/check.sh

install: all
	mkdir -p $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/bin
	cp dpo.h $(DESTDIR)$(PREFIX)/include/
	cp $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/

clean:
	rm -rf $(B)

.PHONY: all demo test check install clean
.SECONDARY:
