/* json: strict JSON documents through cJSON, with exact numbers (RFC 8259).
 *
 * cJSON keeps numbers as doubles, cuts long ones, takes duplicate keys, cuts strings at \u0000 and
 * ignores what follows a document. Here its tree is built by a strict parser: at most
 * JSON_DEPTH_MAX levels, no duplicate keys, valid UTF-8, no \u0000, nothing after the end. Number
 * nodes carry their own text, exactly as it was written, in `valuestring`.
 *
 * Pure functions, any thread.
 */
#ifndef FORMAT_JSON_H
#define FORMAT_JSON_H

#include "core/fail.h"
#include "core/fields.h"

#include <cjson/cJSON.h>

#define JSON_DEPTH_MAX 32
#define JSON_DOCUMENT_MAX (1 << 20) /* bytes */

/* INVALID, with the byte where it went wrong, TOO_LARGE over JSON_DOCUMENT_MAX, OUT_OF_MEMORY. The
 * caller owns *out (cJSON_Delete). */
NODISCARD enum td_status json_parse(const char *text, size_t length, cJSON **out);

/* ---- fields as JSON members ----------------------------------------------------------------- */

/* Reads the members of an object into fields, by the field table: uint and int as JSON integers
 * (all 64 bits), text as strings, dtype as any spelling td_dtype_parse knows, dims as lists of
 * integers, scalar as a number, true, false, "NaN", "Infinity", "-Infinity" or [re, im], index as
 * NumPy's notation in a string ("0,1:3,...") or a single integer. null counts as absent. INVALID
 * names the member that is unknown or of the wrong type; BAD_DTYPE for an unknown dtype or a number
 * out of range, BAD_SHAPE for too many dimensions, BAD_INDEX. The tree is json_parse's; texts point
 * into it. *out holds these fields alone. */
NODISCARD enum td_status json_to_fields(const cJSON *object, struct fields *out);
/* One field from text, as in a URL's query: dims as 2,3 (also [2,3], or nothing for a scalar), bool
 * as true, false, 1, 0 or nothing (true), index in NumPy's notation, durations of timeout_ms as
 * milliseconds or with a unit (500ms, 30s, 2m), NaN with or without quotes. Errors as above. Texts
 * point into `value`. *out keeps its other fields. */
NODISCARD enum td_status field_from_text(int field, struct text value, struct fields *out);
/* Adds a member for each present field, in the table's order; numbers exactly. */
NODISCARD enum td_status json_add_fields(cJSON *object, const struct fields *fields);
/* A duration: "500ms", "30s", "2m", "1h", or a bare number of milliseconds. */
NODISCARD enum td_status duration_from_text(struct text text, uint64_t *milliseconds);

#endif
