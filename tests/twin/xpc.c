/* The twin's xpc: reference-counted dictionaries, arrays and scalars.
 *
 * Stricter than Apple's on purpose: NULL, a dead object or one of the wrong type aborts the process,
 * so that a client's mistake is a failed test and not luck. Released objects keep their memory; a
 * later use is therefore always noticed. */
#include "twin.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct _xpc_type_s dictionary_type = {"dictionary"}, array_type = {"array"}, bool_type = {"bool"},
                                uint64_type = {"uint64"}, string_type = {"string"}, data_type = {"data"};
enum { DEAD = -1000 };

struct object {
  xpc_type_t type;
  atomic_int references;
  size_t count; /* entries, or bytes of data */
  union {
    uint64_t number;
    bool truth;
    char *bytes;
    struct { char **keys; struct object **values; };
  };
};

static atomic_long live;
EXPORT long twin_xpc_live(void) { return live; }

static void misuse(const char *why) {
  fprintf(stderr, "twin: xpc misuse: %s\n", why);
  abort();
}

static struct object *make(xpc_type_t type) {
  struct object *object = calloc(1, sizeof *object);
  object->type = type;
  object->references = 1;
  live++;
  return object;
}

static struct object *alive(xpc_object_t any) {
  struct object *object = any;
  if (!object) misuse("NULL object");
  if (object->references <= 0) misuse("object used after release");
  return object;
}

static struct object *expect(xpc_object_t any, xpc_type_t type) {
  struct object *object = alive(any);
  if (object->type != type) misuse("object of the wrong type");
  return object;
}

EXPORT xpc_object_t xpc_retain(xpc_object_t any) {
  alive(any)->references++;
  return any;
}

EXPORT void xpc_release(xpc_object_t any) {
  struct object *object = alive(any);
  if (--object->references) return;
  if (object->type == &string_type || object->type == &data_type) free(object->bytes);
  if (object->type == &dictionary_type || object->type == &array_type) {
    for (size_t n = 0; n < object->count; n++) {
      if (object->keys) free(object->keys[n]);
      xpc_release(object->values[n]);
    }
    free(object->keys);
    free(object->values);
  }
  live--;
  object->references = DEAD;
}

EXPORT xpc_type_t xpc_get_type(xpc_object_t any) { return alive(any)->type; }

static void append(struct object *holder, struct object *value) {
  holder->values = realloc(holder->values, (holder->count + 1) * sizeof *holder->values);
  holder->values[holder->count++] = value;
}

static void put(xpc_object_t any, const char *key, struct object *value) {
  struct object *dictionary = expect(any, &dictionary_type);
  if (!key) misuse("NULL key");
  for (size_t n = 0; n < dictionary->count; n++)
    if (!strcmp(dictionary->keys[n], key)) {
      xpc_release(dictionary->values[n]);
      dictionary->values[n] = value;
      return;
    }
  dictionary->keys = realloc(dictionary->keys, (dictionary->count + 1) * sizeof *dictionary->keys);
  dictionary->keys[dictionary->count] = strdup(key);
  append(dictionary, value);
}

EXPORT xpc_object_t xpc_dictionary_create(const char *const *keys, const xpc_object_t *values, size_t count) {
  struct object *dictionary = make(&dictionary_type);
  for (size_t n = 0; n < count; n++) put(dictionary, keys[n], xpc_retain(values[n]));
  return dictionary;
}

EXPORT void xpc_dictionary_set_uint64(xpc_object_t dictionary, const char *key, uint64_t number) {
  struct object *object = make(&uint64_type);
  object->number = number;
  put(dictionary, key, object);
}

EXPORT void xpc_dictionary_set_bool(xpc_object_t dictionary, const char *key, bool truth) {
  struct object *object = make(&bool_type);
  object->truth = truth;
  put(dictionary, key, object);
}

EXPORT void xpc_dictionary_set_string(xpc_object_t dictionary, const char *key, const char *text) {
  struct object *object = make(&string_type);
  object->bytes = strdup(text);
  put(dictionary, key, object);
}

EXPORT void xpc_dictionary_set_data(xpc_object_t dictionary, const char *key, const void *bytes, size_t count) {
  struct object *object = make(&data_type);
  object->bytes = memcpy(malloc(count), bytes, count);
  object->count = count;
  put(dictionary, key, object);
}

EXPORT xpc_object_t xpc_dictionary_get_value(xpc_object_t any, const char *key) {
  struct object *dictionary = expect(any, &dictionary_type);
  for (size_t n = 0; n < dictionary->count; n++)
    if (!strcmp(dictionary->keys[n], key)) return dictionary->values[n];
  return NULL;
}

static struct object *typed(xpc_object_t dictionary, const char *key, xpc_type_t type) {
  struct object *object = xpc_dictionary_get_value(dictionary, key);
  return object && object->type == type ? object : NULL;
}

EXPORT uint64_t xpc_dictionary_get_uint64(xpc_object_t dictionary, const char *key) {
  struct object *object = typed(dictionary, key, &uint64_type);
  return object ? object->number : 0;
}

EXPORT bool xpc_dictionary_get_bool(xpc_object_t dictionary, const char *key) {
  struct object *object = typed(dictionary, key, &bool_type);
  return object && object->truth;
}

EXPORT const char *xpc_dictionary_get_string(xpc_object_t dictionary, const char *key) {
  struct object *object = typed(dictionary, key, &string_type);
  return object ? object->bytes : NULL;
}

EXPORT const void *xpc_dictionary_get_data(xpc_object_t dictionary, const char *key, size_t *count) {
  struct object *object = typed(dictionary, key, &data_type);
  if (object && count) *count = object->count;
  return object ? object->bytes : NULL;
}

EXPORT bool xpc_dictionary_apply(xpc_object_t any, xpc_dictionary_applier_t applier) {
  struct object *dictionary = expect(any, &dictionary_type);
  for (size_t n = 0; n < dictionary->count; n++)
    if (!applier(dictionary->keys[n], dictionary->values[n])) return false;
  return true;
}

EXPORT xpc_object_t xpc_array_create(const xpc_object_t *values, size_t count) {
  struct object *array = make(&array_type);
  for (size_t n = 0; n < count; n++) append(array, xpc_retain(values[n]));
  return array;
}

EXPORT void xpc_array_append_value(xpc_object_t array, xpc_object_t value) {
  append(expect(array, &array_type), xpc_retain(value));
}

EXPORT size_t xpc_array_get_count(xpc_object_t array) { return expect(array, &array_type)->count; }

EXPORT xpc_object_t xpc_array_get_value(xpc_object_t any, size_t index) {
  struct object *array = expect(any, &array_type);
  if (index >= array->count) misuse("array index out of range");
  return array->values[index];
}
