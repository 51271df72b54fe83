/* fields: every argument of every operation and every part of every reply, once.
 *
 * Requests and replies are both a `struct fields`: a set of the fields below, each present or not.
 * The frame encoding, the JSON encoding, the clients' builders and the documents come from this one
 * table. The numbers are the wire's and never change; a retired number is never used again.
 *
 * A struct fields owns nothing: texts point into the buffer that they were decoded from, or at the
 * caller's memory. It is large (about 6 KiB); keep it on the stack or in a request.
 */
#ifndef CORE_FIELDS_H
#define CORE_FIELDS_H

#include "core/layout.h"
#include "core/scalar.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* X(number, name, type, meaning). Types: UINT (u64), INT (i64), BOOL, TEXT (UTF-8), DTYPE,
 * DIMS (up to 32 i64), SCALAR, INDEX. */
#define FIELDS(X)                                                                                  \
    X(1, input, TEXT, "the tensor to work on: a name, or @id")                                     \
    X(2, other, TEXT, "the second tensor: a name, or @id")                                         \
    X(3, output, TEXT,                                                                             \
      "the name to publish the result under; without it the result is an "                         \
      "anonymous object of the session")                                                           \
    X(4, dtype, DTYPE, "the element type")                                                         \
    X(5, device, TEXT, "cpu, cuda or cuda:N")                                                      \
    X(6, shape, DIMS, "sizes, outermost first")                                                    \
    X(7, strides, DIMS, "elements between neighbours in each dimension")                           \
    X(8, offset_bytes, UINT, "the first element's distance from the storage's start, in bytes")    \
    X(9, requires_grad, BOOL, "the tensor is a variable that requires grad")                       \
    X(10, mutable, BOOL, "holders of the memory may write to it")                                  \
    X(11, copy, BOOL, "copy even where the same memory would do")                                  \
    X(12, force, BOOL, "detach and move to the cpu first")                                         \
    X(13, value, SCALAR, "a number")                                                               \
    X(14, start, SCALAR, "the first value")                                                        \
    X(15, end, SCALAR, "the value to stop before")                                                 \
    X(16, step, SCALAR, "the difference between neighbours")                                       \
    X(17, low, INT, "the lowest value")                                                            \
    X(18, high, INT, "one more than the highest value")                                            \
    X(19, seed, UINT, "the key of the random stream")                                              \
    X(20, counter, UINT, "which of the seed's random streams")                                     \
    X(21, dim, INT, "a dimension, counted from the end when negative")                             \
    X(22, dim0, INT, "the first of two dimensions")                                                \
    X(23, dim1, INT, "the second of two dimensions")                                               \
    X(24, index, INDEX, "NumPy's basic index")                                                     \
    X(25, dims, DIMS, "dimensions in a new order")                                                 \
    X(26, casting, TEXT, "unsafe (default), same_kind or safe, as NumPy's can_cast")               \
    X(27, saturate, BOOL, "float8: clamp to the largest finite value instead of overflowing")      \
    X(28, create_only, BOOL, "fail if the output name exists")                                     \
    X(29, if_generation, UINT, "fail unless the output name has this generation")                  \
    X(30, timeout_ms, UINT, "give up after this many milliseconds")                                \
    X(31, prefix, TEXT,                                                                            \
      "only names that begin with it; of load and save what stands before those in the file")      \
    X(32, limit, UINT, "at most so many entries")                                                  \
    X(33, cursor, TEXT, "the last name already seen; entries after it are returned")               \
    X(34, lease, UINT, "a mapping that was handed out")                                            \
    X(35, known_storage, UINT, "the storage the client has mapped already: no descriptor needed")  \
    X(36, write, BOOL, "map the memory for writing")                                               \
    X(37, require_shared, BOOL, "fail rather than copy")                                           \
    X(38, protocol, UINT, "version of the frame protocol")                                         \
    X(39, token, TEXT, "the secret of --token-file")                                               \
    X(40, client, TEXT, "who connects, for the log")                                               \
    X(41, session_key, TEXT, "joins a connection to a session that another connection opened")     \
    X(42, id, UINT, "the object's id; as an input it is written @id")                              \
    X(43, name, TEXT, "the name")                                                                  \
    X(44, kind, TEXT, "tensor or variable")                                                        \
    X(45, generation, UINT, "the store's revision when the name was last published")               \
    X(46, version, UINT, "PyTorch's _version: in-place changes, shared by views")                  \
    X(47, epoch, UINT, "writes to the storage through the daemon, and touches")                    \
    X(48, nbytes, UINT, "bytes of the elements; of a device those in use")                         \
    X(49, is_leaf, BOOL, "no recorded operation made it")                                          \
    X(50, grad_fn, TEXT, "the recorded operation that made it")                                    \
    X(51, history, TEXT, "what it was made from: name@generation")                                 \
    X(52, storage, UINT, "the storage's id; views with the same one share memory")                 \
    X(53, storage_bytes, UINT,                                                                     \
      "size of the storage, which is what a client maps; of a device what may be used of it")      \
    X(54, mode, TEXT, "building, frozen, single-writer or mutable")                                \
    X(55, memory, TEXT, "shared or copied")                                                        \
    X(56, reason, TEXT,                                                                            \
      "why it was copied: dtype, device, layout, heap, view, small, transport, "                   \
      "or copy when that was asked for")                                                           \
    X(57, text, TEXT, "a text for people")                                                         \
    X(58, message, TEXT, "what went wrong, what was expected and what to do")                      \
    X(59, count, UINT, "a number of things")                                                       \
    X(60, limits, TEXT, "the daemon's limits as key=value, separated by spaces")                   \
    X(61, session, UINT, "the session's id")                                                       \
    X(62, boot, TEXT, "a new one each time the daemon starts")                                     \
    X(63, ttl_ms, UINT,                                                                            \
      "milliseconds until the name is removed, or the lease ends; without it they stay until "     \
      "that is asked for")                                                                         \
    X(64, queue, TEXT, "the name of a queue; queues have names of their own")                      \
    X(65, tensors, TEXT,                                                                           \
      "the tensors of an item, one a line: KEY=NAME or KEY=@ID; KEY= may be left out")             \
    X(66, meta, TEXT, "a small text that goes with an item, such as JSON; at most 4096 bytes")     \
    X(67, item, UINT, "an item's number in its queue")                                             \
    X(68, deliveries, UINT, "how often the item has been handed out")                              \
    X(69, max_items, UINT, "items that wait in a queue at most")                                   \
    X(70, max_bytes, UINT, "bytes of the items that wait in a queue at most")                      \
    X(71, when_full, TEXT, "what a put does then: block (default), fail or drop_oldest")           \
    X(72, visibility_ms, UINT,                                                                     \
      "milliseconds that a consumer has to acknowledge an item before it goes back")               \
    X(73, wait_ms, UINT,                                                                           \
      "milliseconds to wait for writers to let go of the memory before it is copied instead")      \
    X(74, since, UINT, "the revision up to which all is known already")                            \
    X(75, revision, UINT, "the store's revision")                                                  \
    X(76, lost, BOOL, "events after `since` are not kept any more")                                \
    X(77, event, TEXT, "publish or remove")                                                        \
    X(78, pid, UINT, "the process at the other end of the socket; 0 over TCP and HTTP")            \
    X(79, uid, UINT, "its user")                                                                   \
    X(80, principal, TEXT, "whose quota it counts against: uid:N, tcp or token")                   \
    X(81, age_ms, UINT, "milliseconds since it began")                                             \
    X(82, closed, BOOL, "the queue takes no more items")                                           \
    X(83, parked, BOOL, "of the items set aside after too many deliveries")                        \
    X(84, key, TEXT, "what an item calls the tensor")                                              \
    X(85, path, TEXT, "a file local to the daemon, below a directory of --load-dir or --save-dir") \
    X(86, format, TEXT, "safetensors, npz or npy")                                                 \
    X(87, metadata, TEXT, "what a safetensors file says of itself: a JSON object of strings")

enum field {
#define FIELD_ENUM(number, name, type, meaning) FIELD_##name = number,
    FIELDS(FIELD_ENUM)
#undef FIELD_ENUM
        FIELD_END
};

/* A set of fields: bit n is the field of number n. */
__extension__ typedef unsigned __int128 field_set;

#define FIELD_BIT(name) ((field_set)1 << FIELD_##name)
_Static_assert(FIELD_END <= 128, "field_set has a bit for each field");

static inline field_set field_bit(int field)
{
    return (field_set)1 << field;
}

/* The lowest field of a set that is not empty. To go through all of them:
 *     for (field_set left = set; left; left &= left - 1) ... field_first(left) ... */
static inline int field_first(field_set set)
{
    uint64_t low = (uint64_t)set;
    return low ? __builtin_ctzll(low) : 64 + __builtin_ctzll((uint64_t)(set >> 64));
}

enum field_type {
    FIELD_TYPE_NONE,
    FIELD_TYPE_UINT,
    FIELD_TYPE_INT,
    FIELD_TYPE_BOOL,
    FIELD_TYPE_TEXT,
    FIELD_TYPE_DTYPE,
    FIELD_TYPE_DIMS,
    FIELD_TYPE_SCALAR,
    FIELD_TYPE_INDEX,
};

/* A text that need not end with NUL. */
struct text {
    const char *data;
    size_t length;
};

#define TEXT_ARGS(t) (int)(t).length, (t).data /* for "%.*s" */

typedef uint64_t field_UINT;
typedef int64_t field_INT;
typedef bool field_BOOL;
typedef struct text field_TEXT;
typedef enum td_dtype field_DTYPE;
typedef struct dims field_DIMS;
typedef struct scalar field_SCALAR;
typedef struct index field_INDEX;

struct fields {
    field_set present; /* those that are set */
#define FIELD_MEMBER(number, name, type, meaning) field_##type name;
    FIELDS(FIELD_MEMBER)
#undef FIELD_MEMBER
};

#define FIELDS_HAS(fields, name) (((fields)->present & FIELD_BIT(name)) != 0)
#define FIELDS_SET(fields, field_name, ...)                                                        \
    ((fields)->field_name = (__VA_ARGS__), (fields)->present |= FIELD_BIT(field_name))

struct field_info {
    const char *name;
    enum field_type type;
    size_t offset; /* of the member in struct fields */
    const char *meaning;
};

extern const struct field_info field_infos[FIELD_END];
/* The number of a field by name, 0 if there is none. */
int field_find(const char *name, size_t length);
/* Copies the fields that are present in `from`; texts are not copied but pointed to. */
void fields_merge(struct fields *to, const struct fields *from);
/* "uint", "text", ... for documents. */
const char *field_type_name(enum field_type type);

/* Inline, so that the length of a literal is known when it is compiled. */
static inline struct text text_of(const char *string)
{
    return (struct text){string, strlen(string)};
}
bool text_equal(struct text text, const char *string);
/* A copy with NUL at its end, which the caller frees; NULL without memory. */
char *text_dup(struct text text);

#endif
