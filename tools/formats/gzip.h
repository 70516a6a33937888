/* gzip.h: reads a file whole, plain or gzip-compressed (RFC 1951, RFC 1952), for the programs in tools/.
 *
 *     char *text, err[256];
 *     size_t size;
 *     if (gzip_read_file("hh.jsonl.gz", (size_t)1 << 30, &text, &size, err, sizeof err)) return cli_die("%s", err);
 *     ... text[0 .. size), and text[size] is 0 ...
 *     free(text);
 *
 * All of gzip is read: stored, fixed and dynamic blocks, several members one after another, every header field, zero
 * padding after the last member. CRC32, length and the header's CRC16 are checked. Any bytes may come in: the answer is
 * the text or an error sentence. There is never more text than the caller's limit; memory is at most the file and three
 * times the text (two buffers, the moment one grows). The length a file claims for itself is compared at the end, never
 * believed. gzip_inflate_bare does the same for a deflate stream alone, as it lies in a zip container.
 *
 * How it decodes: the input lies in memory, the output is one growing buffer and so its own window. Bits wait in a
 * 64-bit word. A table of 2^11 (distances: 2^8) entries decodes every code that short in one look; the few longer codes
 * walk the canonical code a bit at a time. While 16 input bytes and room for the longest match are left, a loop runs that
 * checks both once a round; a careful one does the edges. */
#ifndef TOOLS_GZIP_H
#define TOOLS_GZIP_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GZIP_OK = 0,
    GZIP_E_IO = 1, /* cannot be opened or read */
    GZIP_E_MEMORY = 2,
    GZIP_E_DATA = 3, /* damaged, cut off, or not gzip after all */
    GZIP_E_LIMIT = 4 /* more bytes than the caller allows */
};

enum {
    GZIP_MAX_CODE = 15,   /* longest Huffman code, in bits */
    GZIP_LONG_TABLE = 11, /* bits looked up at once, literals and lengths */
    GZIP_DIST_TABLE = 8,  /* the same for distances */
    GZIP_SYMBOLS = 288,
    GZIP_ROOM = 320 /* output room the fast loop wants: 3 literals, a match of 258, 7 bytes overrun */
};

/* A decoded symbol in 32 bits: code length (bits 0-7), number of extra bits (8-11), kind (12-15), literal, first length
 * or first distance (16-31). 0: no code begins like this. */
#define GZIP_LITERAL 0x1000u
#define GZIP_MATCH   0x2000u /* a length, or in the distance code a distance */
#define GZIP_END     0x4000u
#define GZIP_WALK    0x8000u /* the code is longer than the table is wide */

typedef struct gzip_code {
    uint32_t table[1 << GZIP_LONG_TABLE];
    uint32_t symbol[GZIP_SYMBOLS];     /* in canonical order: by code length, then by symbol */
    unsigned count[GZIP_MAX_CODE + 1]; /* codes of each length */
    unsigned width;                    /* the table has 1 << width entries */
} gzip_code;

typedef struct gzip_state {
    const unsigned char *in;
    size_t in_size, in_pos;
    uint64_t bits; /* next bits, lowest first; above bit_count they are 0 or true input bits */
    unsigned bit_count;
    unsigned char *out;
    size_t size, room, limit; /* bytes written, allocated (without the final 0), allowed */
    size_t member;            /* where the present member's output began: no match reaches before it */
    int fixed;                /* the two codes are the fixed ones: a file may have a million such blocks */
    int code;                 /* first error, GZIP_E_... */
    const char *reason;
    uint32_t crc_table[8][256];
    gzip_code literals, distances;
} gzip_state;

static inline int gzip_fail(gzip_state *z, int code, const char *reason) {
    if (!z->code) {
        z->code = code;
        z->reason = reason;
    }
    return z->code;
}

/* ---- CRC32 ------------------------------------------------------------------------------------------------------ */

/* table[k][b] is the CRC of byte b followed by k zero bytes, so that eight bytes are taken in one step. */
static inline void gzip_crc_tables(uint32_t table[8][256]) {
    unsigned i, k;
    for (i = 0; i < 256; i++) {
        uint32_t c = i;
        for (k = 0; k < 8; k++) c = (c & 1u) ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        table[0][i] = c;
    }
    for (k = 1; k < 8; k++)
        for (i = 0; i < 256; i++) table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 255u];
}

static inline uint32_t gzip_crc32(uint32_t table[8][256], const unsigned char *p, size_t n) {
    uint32_t c = 0xFFFFFFFFu;
    for (; n >= 8; n -= 8, p += 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = table[7][c & 255u] ^ table[6][c >> 8 & 255u] ^ table[5][c >> 16 & 255u] ^ table[4][c >> 24] ^
            table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; n; n--, p++) c = table[0][(c ^ *p) & 255u] ^ (c >> 8);
    return ~c;
}

/* ---- bits ------------------------------------------------------------------------------------------------------- */

static inline uint64_t gzip_load64(const unsigned char *p) { /* compilers make one load of it */
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 |
           (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

/* To at least 56 bits. Needs 8 input bytes. The word may hold some bits of the byte at in_pos too; they are that byte's
 * own, so that adding the byte again later changes nothing. */
#define GZIP_REFILL(bits, count, in, pos)                                                                              \
    ((bits) |= gzip_load64((in) + (pos)) << (count), (pos) += (63u - (count)) >> 3, (count) |= 56u)

static inline void gzip_refill(gzip_state *z) { /* the same, as far as the input goes */
    while (z->bit_count < 56 && z->in_pos < z->in_size) {
        z->bits |= (uint64_t)z->in[z->in_pos++] << z->bit_count;
        z->bit_count += 8;
    }
}

static inline unsigned gzip_bits(gzip_state *z, unsigned n) { /* n <= 16; 0 and an error where the input ends */
    unsigned v;
    if (z->bit_count < n) gzip_refill(z);
    if (z->bit_count < n) {
        gzip_fail(z, GZIP_E_DATA, "the data end too early");
        return 0;
    }
    v = (unsigned)(z->bits & ((1u << n) - 1u));
    z->bits >>= n;
    z->bit_count -= n;
    return v;
}

/* Back to whole bytes: the rest of the present byte is dropped, whole bytes waiting in the word go back to the input. */
static inline void gzip_to_byte(gzip_state *z) {
    z->in_pos -= z->bit_count >> 3;
    z->bits = 0;
    z->bit_count = 0;
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

/* Makes room for n more bytes, and for the fast loop's margin where the limit permits. */
static inline int gzip_grow(gzip_state *z, size_t n) {
    size_t want;
    unsigned char *p;
    if (n <= z->room - z->size) return GZIP_OK;
    if (n > z->limit - z->size) return gzip_fail(z, GZIP_E_LIMIT, "too large");
    want = z->size + n;
    if (z->room <= z->limit / 2) {
        if (want < 2 * z->room) want = 2 * z->room;
    } else want = z->limit;
    if (want < 65536) want = z->limit < 65536 ? z->limit : 65536;
    p = (unsigned char *)realloc(z->out, want + 1);
    if (!p) return gzip_fail(z, GZIP_E_MEMORY, "out of memory");
    z->out = p;
    z->room = want;
    return GZIP_OK;
}

/* ---- Huffman codes ---------------------------------------------------------------------------------------------- */

/* What a symbol of the literal/length code stands for, without the code length. */
static inline uint32_t gzip_literal_symbol(unsigned s) {
    static const unsigned short base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                            31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const unsigned char extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                            2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    if (s < 256) return GZIP_LITERAL | (uint32_t)s << 16;
    if (s == 256) return GZIP_END;
    if (s > 285) return 0; /* in the fixed code, but means nothing */
    return GZIP_MATCH | (uint32_t)extra[s - 257] << 8 | (uint32_t)base[s - 257] << 16;
}

static inline uint32_t gzip_distance_symbol(unsigned s) {
    unsigned extra = s < 4 ? 0 : s / 2 - 1;
    uint32_t base = s < 4 ? s + 1u : ((2u + (s & 1u)) << extra) + 1u;
    if (s > 29) return 0;
    return GZIP_MATCH | extra << 8 | base << 16;
}

static inline unsigned gzip_reverse(unsigned code, unsigned length) {
    unsigned r = 0;
    for (; length; length--, code >>= 1) r = r << 1 | (code & 1u);
    return r;
}

enum { GZIP_FOR_LENGTHS, GZIP_FOR_LITERALS, GZIP_FOR_DISTANCES };

/* Builds the canonical code with these lengths. Refuses what is no prefix code, and codes that leave bit patterns
 * without meaning, but for the two that RFC 1951 and zlib permit: one code of one bit, and no distance codes at all. */
static inline int gzip_build(gzip_state *z, gzip_code *c, const unsigned char *length, unsigned n, unsigned width,
                             int purpose) {
    unsigned s, len, code, first[GZIP_MAX_CODE + 2], place[GZIP_MAX_CODE + 2];
    int left = 1; /* bit patterns of the present length not yet given away */
    memset(c->table, 0, sizeof c->table[0] << width);
    memset(c->count, 0, sizeof c->count);
    c->width = width;
    for (s = 0; s < n; s++) c->count[length[s]]++;
    c->count[0] = 0;
    code = 0;
    first[1] = place[1] = 0;
    for (len = 1; len <= GZIP_MAX_CODE; len++) {
        left = 2 * left - (int)c->count[len];
        if (left < 0) return gzip_fail(z, GZIP_E_DATA, "a Huffman code is oversubscribed");
        code += c->count[len];
        place[len + 1] = code;
        first[len + 1] = (first[len] + c->count[len]) << 1;
    }
    if (left > 0 && code > 0 && (purpose == GZIP_FOR_LENGTHS || c->count[1] != code))
        return gzip_fail(z, GZIP_E_DATA, "a Huffman code is incomplete");
    if (code == 0 && purpose != GZIP_FOR_DISTANCES) return gzip_fail(z, GZIP_E_DATA, "a Huffman code is empty");
    for (s = 0; s < n; s++) {
        uint32_t e;
        unsigned r;
        len = length[s];
        if (!len) continue;
        e = purpose == GZIP_FOR_LITERALS    ? gzip_literal_symbol(s)
            : purpose == GZIP_FOR_DISTANCES ? gzip_distance_symbol(s)
                                            : (GZIP_LITERAL | (uint32_t)s << 16);
        if (e) e |= len;
        c->symbol[place[len]++] = e;
        r = gzip_reverse(first[len]++, len);
        if (len > width) c->table[r & ((1u << width) - 1u)] = GZIP_WALK;
        else
            for (; r < 1u << width; r += 1u << len) c->table[r] = e;
    }
    return GZIP_OK;
}

static inline uint32_t gzip_walk(const gzip_code *c, uint64_t bits) {
    unsigned len, code = 0, first = 0, place = 0;
    for (len = 1; len <= GZIP_MAX_CODE; len++, bits >>= 1) {
        code |= (unsigned)(bits & 1u);
        if (code < first + c->count[len]) return c->symbol[place + (code - first)];
        place += c->count[len];
        first = (first + c->count[len]) << 1;
        code <<= 1;
    }
    return 0;
}

static inline uint32_t gzip_look(const gzip_code *c, uint64_t bits) {
    uint32_t e = c->table[bits & ((1u << c->width) - 1u)];
    return (e & GZIP_WALK) ? gzip_walk(c, bits) : e;
}

/* ---- deflate blocks --------------------------------------------------------------------------------------------- */

static inline int gzip_stored(gzip_state *z) {
    size_t n;
    const unsigned char *p;
    gzip_to_byte(z);
    if (z->in_size - z->in_pos < 4) return gzip_fail(z, GZIP_E_DATA, "the data end too early");
    p = z->in + z->in_pos;
    n = (size_t)p[0] | (size_t)p[1] << 8;
    if ((n ^ 0xFFFFu) != ((size_t)p[2] | (size_t)p[3] << 8))
        return gzip_fail(z, GZIP_E_DATA, "the length of a stored block contradicts its complement");
    z->in_pos += 4;
    if (z->in_size - z->in_pos < n) return gzip_fail(z, GZIP_E_DATA, "the data end too early");
    if (!n) return GZIP_OK;
    if (gzip_grow(z, n)) return z->code;
    memcpy(z->out + z->size, z->in + z->in_pos, n);
    z->size += n;
    z->in_pos += n;
    return GZIP_OK;
}

/* Repeats n bytes from `distance` back; may write 7 bytes more than n. */
static inline void gzip_copy(unsigned char *to, size_t distance, size_t n) {
    const unsigned char *from = to - distance;
    unsigned char *end = to + n;
    if (distance >= 8) {
        do {
            memcpy(to, from, 8);
            to += 8;
            from += 8;
        } while (to < end);
    } else if (distance == 1) memset(to, *from, n);
    else
        while (to < end) *to++ = *from++;
}

/* Symbols while there are input and room enough not to check for either. 1 at the end of the block, 0 where the edge
 * is near, -1 on an error. A match takes at most 15 + 5 + 15 + 13 = 48 bits, a refill gives 56 and takes up to 7 bytes;
 * there may be two in a round, hence 16. */
static inline int gzip_fast(gzip_state *z) {
    const unsigned char *in = z->in;
    uint64_t bits = z->bits;
    unsigned count = z->bit_count;
    size_t pos = z->in_pos, size = z->size;
    const char *reason = NULL;
    int end = 0;
    while (z->in_size - pos >= 16 && z->room - size >= GZIP_ROOM) {
        uint32_t e, n, distance, extra;
        int more;
        GZIP_REFILL(bits, count, in, pos);
        e = gzip_look(&z->literals, bits);
        for (more = 2; e & GZIP_LITERAL; more--) { /* up to three literals of 15 bits before the next refill */
            bits >>= e & 15u;
            count -= e & 15u;
            z->out[size++] = (unsigned char)(e >> 16);
            if (!more) break;
            e = gzip_look(&z->literals, bits);
        }
        if (e & GZIP_LITERAL) continue;
        if (count < 48) GZIP_REFILL(bits, count, in, pos); /* e stays right: only bits above count were added */
        if (e & GZIP_END) {
            bits >>= e & 15u;
            count -= e & 15u;
            end = 1;
            break;
        }
        if (!e) {
            reason = "a bit pattern is no code";
            break;
        }
        bits >>= e & 15u;
        extra = e >> 8 & 15u;
        n = (e >> 16) + (uint32_t)(bits & ((1u << extra) - 1u));
        bits >>= extra;
        count -= (e & 15u) + extra;
        e = gzip_look(&z->distances, bits);
        if (!e) {
            reason = "a bit pattern is no distance code";
            break;
        }
        bits >>= e & 15u;
        extra = e >> 8 & 15u;
        distance = (e >> 16) + (uint32_t)(bits & ((1u << extra) - 1u));
        bits >>= extra;
        count -= (e & 15u) + extra;
        if (distance > size - z->member) {
            reason = "a match reaches before the beginning";
            break;
        }
        gzip_copy(z->out + size, distance, n);
        size += n;
    }
    z->bits = bits;
    z->bit_count = count;
    z->in_pos = pos;
    z->size = size;
    if (reason) {
        gzip_fail(z, GZIP_E_DATA, reason);
        return -1;
    }
    return end;
}

/* A code and its extra bits, with every check. 0 and an error if there is none. */
static inline uint32_t gzip_symbol(gzip_state *z, const gzip_code *c, uint32_t *value) {
    uint32_t e;
    gzip_refill(z);
    e = gzip_look(c, z->bits);
    if (!e || (e & 15u) > z->bit_count) {
        /* Past the input's end the word is filled with zeros: what they spell is not the file's fault. */
        gzip_fail(z, GZIP_E_DATA, z->bit_count < GZIP_MAX_CODE ? "the data end too early" : "a bit pattern is no code");
        return 0;
    }
    z->bits >>= e & 15u;
    z->bit_count -= e & 15u;
    *value = (e >> 16) + gzip_bits(z, e >> 8 & 15u);
    return z->code ? 0 : e;
}

/* One symbol near an edge of the input or of the output. 1 at the end of the block, 0 to go on, -1 on an error. */
static inline int gzip_careful(gzip_state *z) {
    uint32_t e, n = 0, distance = 0;
    e = gzip_symbol(z, &z->literals, &n);
    if (!e) return -1;
    if (e & GZIP_END) return 1;
    if (e & GZIP_LITERAL) {
        if (gzip_grow(z, 1)) return -1;
        z->out[z->size++] = (unsigned char)n;
        return 0;
    }
    if (!gzip_symbol(z, &z->distances, &distance)) return -1;
    if (distance > z->size - z->member) {
        gzip_fail(z, GZIP_E_DATA, "a match reaches before the beginning");
        return -1;
    }
    if (gzip_grow(z, n)) return -1;
    for (; n; n--, z->size++) z->out[z->size] = z->out[z->size - distance];
    return 0;
}

static inline int gzip_coded(gzip_state *z) {
    int r;
    do {
        r = gzip_fast(z);
        if (!r) r = gzip_careful(z);
    } while (!r);
    return z->code;
}

static inline int gzip_fixed_codes(gzip_state *z) {
    unsigned char length[GZIP_SYMBOLS];
    if (z->fixed) return GZIP_OK;
    memset(length, 8, 144);
    memset(length + 144, 9, 112);
    memset(length + 256, 7, 24);
    memset(length + 280, 8, 8);
    if (gzip_build(z, &z->literals, length, 288, GZIP_LONG_TABLE, GZIP_FOR_LITERALS)) return z->code;
    memset(length, 5, 32);
    z->fixed = 1;
    return gzip_build(z, &z->distances, length, 32, GZIP_DIST_TABLE, GZIP_FOR_DISTANCES);
}

static inline int gzip_dynamic_codes(gzip_state *z) {
    static const unsigned char order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    unsigned char length[286 + 30];
    unsigned i, literals = gzip_bits(z, 5) + 257, distances = gzip_bits(z, 5) + 1, lengths = gzip_bits(z, 4) + 4;
    if (z->code) return z->code;
    z->fixed = 0;
    if (literals > 286 || distances > 30) return gzip_fail(z, GZIP_E_DATA, "a block has too many symbols");
    memset(length, 0, 19);
    for (i = 0; i < lengths; i++) length[order[i]] = (unsigned char)gzip_bits(z, 3);
    if (z->code) return z->code;
    /* The code for code lengths stays where the distance code will be: it is done with before that is built. */
    if (gzip_build(z, &z->distances, length, 19, GZIP_DIST_TABLE, GZIP_FOR_LENGTHS)) return z->code;
    for (i = 0; i < literals + distances;) {
        uint32_t s = 0;
        unsigned repeat;
        unsigned char v = 0;
        if (!gzip_symbol(z, &z->distances, &s)) return z->code;
        if (s < 16) {
            length[i++] = (unsigned char)s;
            continue;
        }
        if (s == 16) {
            if (i == 0) return gzip_fail(z, GZIP_E_DATA, "a code length repeats nothing");
            v = length[i - 1];
        }
        repeat = s == 16 ? 3 + gzip_bits(z, 2) : s == 17 ? 3 + gzip_bits(z, 3) : 11 + gzip_bits(z, 7);
        if (z->code) return z->code;
        if (repeat > literals + distances - i) return gzip_fail(z, GZIP_E_DATA, "code lengths run over their end");
        memset(length + i, v, repeat);
        i += repeat;
    }
    if (!length[256]) return gzip_fail(z, GZIP_E_DATA, "a block has no end code");
    if (gzip_build(z, &z->literals, length, literals, GZIP_LONG_TABLE, GZIP_FOR_LITERALS)) return z->code;
    return gzip_build(z, &z->distances, length + literals, distances, GZIP_DIST_TABLE, GZIP_FOR_DISTANCES);
}

/* A whole deflate stream from in_pos; leaves in_pos at the first byte after it. */
static inline int gzip_deflated(gzip_state *z) {
    unsigned last = 0;
    z->bits = 0;
    z->bit_count = 0;
    while (!last) {
        unsigned type;
        last = gzip_bits(z, 1);
        type = gzip_bits(z, 2);
        if (z->code) return z->code;
        if (type == 0) gzip_stored(z);
        else if (type == 3) gzip_fail(z, GZIP_E_DATA, "a block is of no known type");
        else if (!(type == 1 ? gzip_fixed_codes(z) : gzip_dynamic_codes(z))) gzip_coded(z);
        if (z->code) return z->code;
    }
    gzip_to_byte(z);
    return GZIP_OK;
}

/* ---- gzip members ----------------------------------------------------------------------------------------------- */

/* Magic, method, flags, time, then up to four optional fields. */
static inline int gzip_header(gzip_state *z) {
    const unsigned char *in = z->in;
    size_t start = z->in_pos, pos = start, left = z->in_size - start;
    unsigned flags;
    int strings;
    if (left >= 2 && (in[pos] != 0x1F || in[pos + 1] != 0x8B))
        return gzip_fail(z, GZIP_E_DATA, "what follows is no gzip member");
    if (left < 10) return gzip_fail(z, GZIP_E_DATA, "the header ends too early");
    if (in[pos + 2] != 8) return gzip_fail(z, GZIP_E_DATA, "the compression method is not deflate");
    flags = in[pos + 3];
    if (flags & 0xE0u) return gzip_fail(z, GZIP_E_DATA, "the header has flags no version of gzip knows");
    pos += 10;
    if (flags & 4u) { /* extra field: length, bytes */
        size_t n;
        if (z->in_size - pos < 2) return gzip_fail(z, GZIP_E_DATA, "the header ends too early");
        n = (size_t)in[pos] | (size_t)in[pos + 1] << 8;
        pos += 2;
        if (z->in_size - pos < n) return gzip_fail(z, GZIP_E_DATA, "the header ends too early");
        pos += n;
    }
    for (strings = ((flags & 8u) != 0) + ((flags & 16u) != 0); strings; strings--) { /* name, comment: up to a 0 */
        const unsigned char *zero =
            pos < z->in_size ? (const unsigned char *)memchr(in + pos, 0, z->in_size - pos) : NULL;
        if (!zero) return gzip_fail(z, GZIP_E_DATA, "the header ends too early");
        pos = (size_t)(zero - in) + 1;
    }
    if (flags & 2u) {
        if (z->in_size - pos < 2) return gzip_fail(z, GZIP_E_DATA, "the header ends too early");
        if ((gzip_crc32(z->crc_table, in + start, pos - start) & 0xFFFFu) !=
            ((uint32_t)in[pos] | (uint32_t)in[pos + 1] << 8))
            return gzip_fail(z, GZIP_E_DATA, "the header's checksum is wrong");
        pos += 2;
    }
    z->in_pos = pos;
    return GZIP_OK;
}

static inline int gzip_member(gzip_state *z) {
    const unsigned char *p;
    uint64_t tail;
    z->member = z->size;
    if (gzip_header(z) || gzip_deflated(z)) return z->code;
    if (z->in_size - z->in_pos < 8) return gzip_fail(z, GZIP_E_DATA, "the data end before their checksum");
    p = z->in + z->in_pos;
    tail = gzip_load64(p);
    if (gzip_crc32(z->crc_table, z->out + z->member, z->size - z->member) != (uint32_t)(tail & 0xFFFFFFFFu))
        return gzip_fail(z, GZIP_E_DATA, "the checksum is wrong");
    if (((z->size - z->member) & 0xFFFFFFFFu) != (size_t)(tail >> 32))
        return gzip_fail(z, GZIP_E_DATA, "the length is wrong");
    z->in_pos += 8;
    return GZIP_OK;
}

/* All members; zeros after the last are padding (tapes, block devices), anything else there is an error. */
static inline int gzip_members(gzip_state *z) {
    do {
        size_t zeros = z->in_pos;
        if (gzip_member(z)) return z->code;
        for (zeros = z->in_pos; zeros < z->in_size && !z->in[zeros]; zeros++) {
        }
        if (zeros == z->in_size) z->in_pos = zeros;
    } while (z->in_pos < z->in_size);
    return GZIP_OK;
}

/* ---- the two calls ---------------------------------------------------------------------------------------------- */

static inline int gzip_is(const void *bytes, size_t n) {
    const unsigned char *p = (const unsigned char *)bytes;
    return n >= 2 && p[0] == 0x1F && p[1] == 0x8B;
}

static inline void gzip_sentence(char *err, size_t errcap, const gzip_state *z, const char *path) {
    if (!err || !errcap) return;
    if (z->code == GZIP_E_LIMIT)
        snprintf(err, errcap, "%s holds more than the %llu bytes allowed; split it or raise the limit", path,
                 (unsigned long long)z->limit);
    else if (z->code == GZIP_E_MEMORY)
        snprintf(err, errcap, "%s: out of memory after inflating %llu bytes; split the file", path,
                 (unsigned long long)z->size);
    else
        snprintf(err, errcap, "%s is damaged at byte %llu of %llu: %s; copy or download it again", path,
                 (unsigned long long)(z->in_pos - (z->bit_count >> 3)), (unsigned long long)z->in_size, z->reason);
}

/* Inflates the gzip file lying in memory. `name` is for the error sentence. The caller frees *text. On an error *text
 * is NULL, *size 0. */
static inline int gzip_inflate(const void *bytes, size_t n, const char *name, size_t max_bytes, char **text,
                               size_t *size, char *err, size_t errcap) {
    gzip_state *z = (gzip_state *)calloc(1, sizeof *z); /* 30 KB: rather not on a small stack */
    int code;
    *text = NULL;
    *size = 0;
    if (err && errcap) err[0] = 0;
    if (!z) {
        if (err && errcap) snprintf(err, errcap, "%s: out of memory before inflating; free some", name);
        return GZIP_E_MEMORY;
    }
    z->in = (const unsigned char *)bytes;
    z->in_size = n;
    z->limit = max_bytes < (size_t)-1 / 4 ? max_bytes : (size_t)-1 / 4;
    gzip_crc_tables(z->crc_table);
    z->out = (unsigned char *)malloc(1); /* so that an empty text has a place for its 0 */
    if (!z->out) gzip_fail(z, GZIP_E_MEMORY, "out of memory");
    else if (!gzip_members(z)) {
        /* gzip_grow keeps room + 1 bytes, so the final 0 always fits; give back what was grown in advance. */
        unsigned char *p = (unsigned char *)realloc(z->out, z->size + 1);
        if (p) z->out = p;
        z->out[z->size] = 0;
        *text = (char *)z->out;
        *size = z->size;
    }
    code = z->code;
    if (code) {
        gzip_sentence(err, errcap, z, name);
        free(z->out);
    }
    free(z);
    return code;
}

/* Inflates a bare deflate stream, as a zip container holds it: the whole input must give exactly `size` bytes, a number
 * that the caller has bounded. The caller frees *out. Otherwise a code, a constant reason, and *out is NULL. */
static inline int gzip_inflate_bare(const void *bytes, size_t n, size_t size, unsigned char **out,
                                    const char **reason) {
    gzip_state *z = size < (size_t)-1 ? (gzip_state *)calloc(1, sizeof *z) : NULL;
    int code;
    *out = NULL;
    *reason = "out of memory";
    if (!z) return GZIP_E_MEMORY;
    z->in = (const unsigned char *)bytes;
    z->in_size = n;
    z->room = z->limit = size;
    z->out = (unsigned char *)malloc(size + 1);
    if (!z->out) gzip_fail(z, GZIP_E_MEMORY, "out of memory");
    else if (!gzip_deflated(z)) {
        if (z->size < size) gzip_fail(z, GZIP_E_DATA, "it inflates to fewer bytes than it declares");
        else if (z->in_pos < n) gzip_fail(z, GZIP_E_DATA, "bytes follow the end of its deflate stream");
    }
    code = z->code;
    *reason = code == GZIP_E_LIMIT ? "it inflates to more bytes than it declares" : z->reason;
    if (code) free(z->out);
    else *out = z->out;
    free(z);
    return code;
}

/* Reads at most limit + 1 bytes (one too many shows that there are more) from a file or pipe of unknown length. */
static inline int gzip_slurp(FILE *f, size_t limit, unsigned char **bytes, size_t *n) {
    size_t room = 0, got = 1;
    *bytes = NULL;
    *n = 0;
    while (got && *n <= limit) {
        if (*n == room) {
            size_t want = room ? (room <= limit / 2 ? 2 * room : limit + 1) : 65536;
            unsigned char *p = (unsigned char *)realloc(*bytes, want + 1); /* + 1: a plain file is returned with a 0 */
            if (!p) return GZIP_E_MEMORY;
            *bytes = p;
            room = want;
        }
        got = fread(*bytes + *n, 1, room - *n, f);
        *n += got;
    }
    return ferror(f) ? GZIP_E_IO : GZIP_OK;
}

/* Reads a file, inflated if it begins with the two gzip bytes, else as it is. The text is followed by a 0 that is not
 * counted. The caller frees *text. On an error: a code, a sentence in err (may be NULL), *text NULL, *size 0. */
static inline int gzip_read_file(const char *path, size_t max_bytes, char **text, size_t *size, char *err,
                                 size_t errcap) {
    unsigned char *bytes = NULL;
    /* Compressed bytes may outnumber the text a little (stored blocks, header fields); a file that exceeds this is
     * no text within the limit whatever it holds. */
    size_t n = 0, limit = max_bytes < (size_t)-1 / 4 ? max_bytes : (size_t)-1 / 4, slack = limit / 64 + 65536;
    int code;
    FILE *f;
    *text = NULL;
    *size = 0;
    if (err && errcap) err[0] = 0;
    errno = 0;
    f = fopen(path, "rb");
    if (!f) {
        if (err && errcap)
            snprintf(err, errcap, "cannot open %s: %s; check the path", path,
                     errno ? strerror(errno) : "no reason given");
        return GZIP_E_IO;
    }
    code = gzip_slurp(f, limit + slack, &bytes, &n);
    if (code && err && errcap && errno == EISDIR) snprintf(err, errcap, "%s is a directory; name a file in it", path);
    else if (code && err && errcap)
        snprintf(err, errcap, "cannot read %s after byte %llu: %s; check the file", path, (unsigned long long)n,
                 code == GZIP_E_MEMORY ? "out of memory"
                 : errno               ? strerror(errno)
                                       : "no reason given");
    fclose(f);
    if (!code && (n > limit + slack || (n > limit && !gzip_is(bytes, n)))) {
        code = GZIP_E_LIMIT;
        if (err && errcap)
            snprintf(err, errcap, "%s holds more than the %llu bytes allowed; split it or raise the limit", path,
                     (unsigned long long)limit);
    }
    if (!code && gzip_is(bytes, n)) code = gzip_inflate(bytes, n, path, max_bytes, text, size, err, errcap);
    else if (!code) {
        bytes[n] = 0;
        *text = (char *)bytes;
        *size = n;
        return GZIP_OK;
    }
    free(bytes);
    return code;
}

#endif /* TOOLS_GZIP_H */
