/* mini_json.h - just enough JSON for the golden cases' own files: trusted text, no escapes in keys, nothing
   stored. A value is a pointer to its first character. Independent of dpo.h's reader. */
#ifndef MINI_JSON_H
#define MINI_JSON_H

typedef struct json_member {
    const char *key; /* not terminated */
    size_t length;
    const char *value;
} json_member;

static const char *json_space(const char *p) {
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') p++;
    return p;
}
static const char *json_end_of_string(const char *p) {
    for (p++; *p && *p != '"'; p++)
        if (*p == '\\' && p[1]) p++;
    return *p ? p + 1 : p;
}
/* Behind the value at p. */
static const char *json_skip(const char *p) {
    int depth = 0;
    p = json_space(p);
    do {
        if (*p == '"') {
            p = json_end_of_string(p);
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            p++;
        } else if (depth) {
            p++;
        } else {
            while (*p && !strchr(",]} \n\r\t", *p)) p++;
        }
    } while (depth && *p);
    return p;
}
/* Members of an object one by one; *at is the object first. 0 at the end. */
static int json_each(const char **at, json_member *m) {
    const char *p;
    if (!*at) return 0;
    p = json_space(*at);
    if (*p != '{' && *p != ',') return 0;
    p = json_space(p + 1);
    if (*p != '"') return 0;
    m->key = p + 1;
    p = json_end_of_string(p);
    m->length = (size_t)(p - 1 - m->key);
    p = json_space(p);
    if (*p != ':') return 0;
    m->value = json_space(p + 1);
    *at = json_space(json_skip(m->value));
    return 1;
}
static const char *json_find(const char *object, const char *key) {
    const char *at = object;
    json_member m;
    while (json_each(&at, &m))
        if (m.length == strlen(key) && !memcmp(m.key, key, m.length)) return m.value;
    return NULL;
}
/* Elements of an array one by one, like json_each. */
static const char *json_element(const char **at) {
    const char *p, *value;
    if (!*at) return NULL;
    p = json_space(*at);
    if (*p != '[' && *p != ',') return NULL;
    value = json_space(p + 1);
    if (*value == ']') return NULL;
    *at = json_space(json_skip(value));
    return value;
}
static int64_t json_count(const char *array) {
    int64_t n = 0;
    while (json_element(&array)) n++;
    return n;
}
static const char *json_at(const char *array, int64_t index) {
    const char *v = json_element(&array);
    while (v && index--) v = json_element(&array);
    return v;
}
static double json_number(const char *value, double otherwise) {
    char *end;
    double x;
    if (!value) return otherwise;
    x = strtod(value, &end);
    return end == value ? otherwise : x;
}
static int json_is(const char *value, const char *text) {
    size_t n = strlen(text);
    return value && *value == '"' && !strncmp(value + 1, text, n) && value[n + 1] == '"';
}
#endif
