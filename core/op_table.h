/* op_table: everything tensord does, one row each.
 *
 * Both doors, the clients, the documents and the tests read this table. The numbers are the frame
 * protocol's opcodes and never change. Fields every operation takes besides its own: timeout_ms;
 * and every operation that makes a tensor (MAKES) also takes output, create_only, if_generation and
 * ttl_ms.
 */
#ifndef CORE_OP_TABLE_H
#define CORE_OP_TABLE_H

#include "core/fields.h"

enum op_trait {
    OP_MAKES = 1,        /* the result is a tensor: published under output, or anonymous */
    OP_BODY_IN = 2,      /* the request's body is the elements, in C order, or a file */
    OP_BODY_OUT = 4,     /* the reply's body is the elements, a file, or a list of entries */
    OP_FD_IN = 8,        /* a memory descriptor may come instead of a body (Unix socket) */
    OP_FD_OUT = 16,      /* a memory descriptor may leave instead of a body (Unix socket) */
    OP_BYTES = 32,       /* touches the bytes of tensors: runs in the job pool when they are many */
    OP_ONE_WAY = 64,     /* may be sent without wanting a reply */
    OP_CONNECTION = 128, /* belongs to the connection itself; answered by the transport */
    OP_IN_PLACE = 256,   /* changes what others see while it runs, and not in op_commit */
    OP_WAITS = 512,      /* may wait for what others do, until its timeout_ms; see ops.h */
};

#define F(name) FIELD_BIT(name)
#define NEW_TENSOR (F(dtype) | F(device) | F(requires_grad) | F(mutable))
#define CAST (F(casting) | F(saturate))

/* X(number, name, required fields, optional fields, traits, "what it does") */
#define OPS(X)                                                                                     \
    X(1, hello, F(protocol), F(token) | F(client) | F(session_key), OP_CONNECTION,                 \
      "Opens the connection: versions, token, and the session to join. Must come first.")          \
    X(2, ping, 0, 0, OP_BODY_IN | OP_BODY_OUT | OP_CONNECTION,                                     \
      "Returns its body, of at most 64 KiB.")                                                      \
    X(3, stats, 0, 0, OP_BODY_OUT, "The daemon's counters: one entry each, name and count.")       \
    X(4, devices, 0, 0, OP_BODY_OUT, "The devices, one entry each.")                               \
    X(5, ops, 0, 0, OP_BODY_OUT, "This table: one entry each, name and text.")                     \
    X(10, put, F(output) | F(dtype) | F(shape),                                                    \
      F(device) | F(requires_grad) | F(mutable) | F(strides), OP_MAKES | OP_BODY_IN,               \
      "Stores the body under a name. Frozen unless mutable is set. With strides the body's "       \
      "elements lie by them, without holes; else in C order.")                                     \
    X(11, get, F(input), F(dtype) | F(index) | F(force) | CAST, OP_BODY_OUT | OP_BYTES,            \
      "The elements in C order as the reply's body, of a slice when index is given, cast on the "  \
      "way when dtype is.")                                                                        \
    X(12, map, F(input), F(write) | F(known_storage) | F(ttl_ms),                                  \
      OP_FD_OUT | OP_BODY_OUT | OP_BYTES,                                                          \
      "Hands out the tensor's own memory under a lease: a descriptor of its storage. Small "       \
      "frozen "                                                                                    \
      "tensors, and everything over TCP, come as a body instead, and the reply says copied.")      \
    X(13, release, 0, F(input) | F(lease) | F(force), OP_ONE_WAY,                                  \
      "Gives back one reference of the session: an anonymous object (@id) or a lease; with force " \
      "instead of either all of its anonymous objects. A lease with force: others may go on "      \
      "reading, so recycled memory is not filled again.")                                          \
    X(14, info, F(input), 0, 0, "Describes a tensor without touching its bytes.")                  \
    X(15, list, 0, F(prefix) | F(limit) | F(cursor), OP_BODY_OUT,                                  \
      "The names in byte order, one entry each; cursor in the reply when there are more.")         \
    X(16, rename, F(input) | F(output), F(create_only) | F(if_generation), 0,                      \
      "Gives the tensor another name; whoever holds it notices nothing.")                          \
    X(17, copy, F(input) | F(output), F(mutable), OP_MAKES | OP_BYTES,                             \
      "Stores a copy of the elements under another name.")                                         \
    X(18, delete, F(input), F(if_generation), 0,                                                   \
      "Removes the name. Whoever maps or holds the tensor keeps it.")                              \
    X(19, touch, F(input), F(output), 0,                                                           \
      "Tells that the bytes were changed through a mapping: raises epoch and version, and the "    \
      "generation of its name: the input's, or output if that is the same memory.")                \
    X(20, empty, F(shape), NEW_TENSOR, OP_MAKES | OP_BYTES, "A tensor to be filled.")              \
    X(21, zeros, F(shape), NEW_TENSOR, OP_MAKES | OP_BYTES, "A tensor of zeros.")                  \
    X(22, ones, F(shape), NEW_TENSOR, OP_MAKES | OP_BYTES, "A tensor of ones.")                    \
    X(23, full, F(shape) | F(value), NEW_TENSOR, OP_MAKES | OP_BYTES,                              \
      "A tensor of one value; its dtype is the value's unless given.")                             \
    X(24, eye, F(shape), NEW_TENSOR, OP_MAKES | OP_BYTES,                                          \
      "Ones on the diagonal, zeros elsewhere; shape is [n] or [n, m].")                            \
    X(25, arange, F(end), F(start) | F(step) | NEW_TENSOR, OP_MAKES | OP_BYTES,                    \
      "start, start + step, ... before end; integers give int64, others float32.")                 \
    X(26, rand, F(shape), F(seed) | F(counter) | NEW_TENSOR, OP_MAKES | OP_BYTES,                  \
      "Uniform in [0, 1): Philox-4x32-10; the reply tells the seed.")                              \
    X(27, randn, F(shape), F(seed) | F(counter) | NEW_TENSOR, OP_MAKES | OP_BYTES,                 \
      "Standard normal: Philox-4x32-10 and Box-Muller; the reply tells the seed.")                 \
    X(28, randint, F(shape) | F(high), F(low) | F(seed) | F(counter) | NEW_TENSOR,                 \
      OP_MAKES | OP_BYTES, "Integers in [low, high); low is 0 unless given; int64.")               \
    X(29, tensor, F(dtype) | F(shape), F(device) | F(requires_grad) | F(mutable),                  \
      OP_MAKES | OP_BODY_IN, "A new tensor of the body's elements; never shares. Mutable.")        \
    X(30, as_tensor, F(input), F(dtype) | F(device), OP_MAKES | OP_BYTES,                          \
      "The same tensor when dtype and device fit already, else a copy.")                           \
    X(31, from_numpy, F(dtype) | F(shape), F(strides) | F(offset_bytes) | F(require_shared),       \
      OP_MAKES | OP_BODY_IN | OP_FD_IN,                                                            \
      "A tensor over the client's own memory, given as a sealed memfd; or a copy of the body.")    \
    X(32, expire, F(input), F(ttl_ms), 0,                                                          \
      "Sets the time that the name has left; without ttl_ms it stays until it is deleted.")        \
    X(33, allocate, F(dtype) | F(shape), F(device) | F(queue) | F(force),                          \
      OP_FD_OUT | OP_BYTES | OP_WAITS,                                                             \
      "Memory for the client to fill in place, zeroed, under a lease: an object that nobody else " \
      "sees before it is published. It goes when the session ends. Unix socket only. For a "       \
      "queue: one of the session's recycled segments, not zeroed; its descriptor comes once; "     \
      "with "                                                                                      \
      "force one that is new.")                                                                    \
    X(34, publish, F(input) | F(output), F(mode) | F(requires_grad) | F(wait_ms),                  \
      OP_MAKES | OP_BYTES | OP_WAITS,                                                              \
      "Publishes what was allocated and filled, without a copy: frozen, unless mode is "           \
      "single-writer or mutable. Frozen needs the client's writable mapping gone; one that is "    \
      "left is waited for, wait_ms (1000) at most, then the elements are copied.")                 \
    X(35, seal, F(input), F(wait_ms), OP_MAKES | OP_BYTES | OP_WAITS,                              \
      "Freezes a tensor's memory; a copy of it where others have seen it, after waiting for "      \
      "those "                                                                                     \
      "who may write, wait_ms (1000) at most. A name then leads to what is frozen.")               \
    X(36, leases, 0, F(lease) | F(limit), OP_BODY_OUT,                                             \
      "Who holds what: the leases after `lease`, one entry each; lease in the reply when there "   \
      "are more.")                                                                                 \
    X(37, principals, 0, 0, OP_BODY_OUT,                                                           \
      "What each user holds, and may: an entry with name, count and limit for each quota.")        \
    X(38, wait, F(input), F(generation), OP_WAITS,                                                 \
      "Describes the tensor as soon as the name is there; with generation, as soon as it has "     \
      "another one.")                                                                              \
    X(39, watch, 0, F(prefix) | F(since) | F(limit), OP_BODY_OUT | OP_WAITS,                       \
      "What was published and removed after the revision since (now unless given), oldest first, " \
      "one entry each, as soon as there is something.")                                            \
    X(40, to, F(input), F(dtype) | F(device) | F(other) | F(copy) | CAST, OP_MAKES | OP_BYTES,     \
      "The same tensor when it already has that dtype and device, else a copy.")                   \
    X(41, type, F(input), F(dtype) | CAST, OP_MAKES | OP_BYTES, "to with a dtype.")                \
    X(42, cpu, F(input), 0, OP_MAKES | OP_BYTES, "to the cpu.")                                    \
    X(43, cuda, F(input), F(device), OP_MAKES | OP_BYTES, "to a GPU, cuda:0 unless named.")        \
    X(44, clone, F(input), 0, OP_MAKES | OP_BYTES, "A copy in memory of its own.")                 \
    X(45, detach, F(input), 0, OP_MAKES, "The same memory and version, without grad or history.")  \
    X(46, data, F(input), 0, OP_MAKES,                                                             \
      "The same memory without grad or history, and with a version of its own.")                   \
    X(47, contiguous, F(input), 0, OP_MAKES | OP_BYTES,                                            \
      "The same tensor when it is C-contiguous, else a copy that is.")                             \
    X(48, numpy, F(input), F(force) | F(write) | F(known_storage),                                 \
      OP_FD_OUT | OP_BODY_OUT | OP_BYTES,                                                          \
      "map, if PyTorch would allow numpy(): on the cpu, without grad; force detaches first.")      \
    X(60, view, F(input) | F(shape), 0, OP_MAKES,                                                  \
      "The same memory in another shape, or an error.")                                            \
    X(61, reshape, F(input) | F(shape), 0, OP_MAKES | OP_BYTES,                                    \
      "The same memory in another shape, or a copy where no view can say it.")                     \
    X(62, transpose, F(input) | F(dim0) | F(dim1), 0, OP_MAKES, "Two dimensions exchanged.")       \
    X(63, permute, F(input) | F(dims), 0, OP_MAKES, "The dimensions in another order.")            \
    X(64, select, F(input) | F(dim) | F(index), 0, OP_MAKES,                                       \
      "One position of a dimension, which disappears; index holds one integer.")                   \
    X(65, slice, F(input) | F(dim) | F(index), 0, OP_MAKES | OP_BYTES,                             \
      "A range of a dimension; index holds one slice. A copy if its step is negative.")            \
    X(66, getitem, F(input) | F(index), 0, OP_MAKES | OP_BYTES,                                    \
      "NumPy's basic indexing: a view, or a copy if a step is negative.")                          \
    X(67, squeeze, F(input), F(dim), OP_MAKES, "Without the dimensions of size 1.")                \
    X(68, unsqueeze, F(input) | F(dim), 0, OP_MAKES, "With a new dimension of size 1.")            \
    X(69, expand, F(input) | F(shape), 0, OP_MAKES, "Dimensions of size 1 repeated without copy.") \
    X(70, load, 0,                                                                                 \
      F(prefix) | F(path) | F(format) | F(dtype) | F(mutable) | F(requires_grad) |                 \
          F(create_only) | F(ttl_ms),                                                              \
      OP_BODY_IN | OP_BODY_OUT,                                                                    \
      "Stores all tensors of a file, all of them or none, and lists them: of the body, or of the " \
      "file at path. Its first bytes tell the format unless it is given; dtype is what NumPy's "   \
      "V2 and V1 mean. The tensors are views over one storage, named PREFIX/NAME. count tells "    \
      "how many there are; with create_only none of the names may be taken.")                      \
    X(71, save, 0,                                                                                 \
      F(prefix) | F(tensors) | F(path) | F(format) | F(metadata) | F(dtype) | F(force) | CAST,     \
      OP_BODY_OUT | OP_BYTES,                                                                      \
      "A file of the tensors below the prefix, as they all are at one moment, or of those that "   \
      "tensors lists (KEY=NAME): safetensors unless format says otherwise, cast when dtype is "    \
      "given. It is the reply's body, or is written to path; npz and npy want force for tensors "  \
      "that require grad.")                                                                        \
    X(80, setitem, F(input) | F(index), F(value) | F(other) | CAST, OP_BYTES | OP_IN_PLACE,        \
      "Writes a number, or another tensor broadcast and cast, into a slice.")                      \
    X(81, fill_, F(input) | F(value), 0, OP_BYTES | OP_IN_PLACE, "Writes one number everywhere.")  \
    X(82, copy_, F(input) | F(other), CAST, OP_BYTES | OP_IN_PLACE,                                \
      "Writes another tensor's elements, broadcast and cast, into this one.")                      \
    X(83, mul, F(input) | F(value), 0, OP_MAKES | OP_BYTES,                                        \
      "Times a number, with PyTorch's type promotion.")                                            \
    X(84, add, F(input) | F(value), 0, OP_MAKES | OP_BYTES,                                        \
      "Plus a number, with PyTorch's type promotion.")                                             \
    X(90, variable, F(input), F(requires_grad), OP_MAKES,                                          \
      "A variable over the tensor's memory, as PyTorch 0.2's Variable: any dtype.")                \
    X(91, requires_grad_, F(input), F(requires_grad), 0, "Sets requires_grad, true unless given.") \
    X(92, grad, F(input), 0, OP_MAKES, "The variable's grad; not_found when there is none.")       \
    X(93, set_grad, F(input), F(other), 0, "Sets the grad; without other, clears it.")             \
    X(94, print, F(input), F(dtype) | CAST, OP_BYTES,                                              \
      "The tensor as PyTorch prints it, in text; cast when dtype is given.")                       \
    X(95, item, F(input), 0, 0, "The value of a tensor of one element.")                           \
    X(100, queue_create, F(queue),                                                                 \
      F(max_items) | F(max_bytes) | F(when_full) | F(visibility_ms) | F(create_only), 0,           \
      "Makes a queue, or takes the one that is there; what is given must be so, then.")            \
    X(101, queue_delete, F(queue), 0, OP_IN_PLACE,                                                 \
      "Removes a queue and what waits in it; whoever has an item in hand keeps its memory.")       \
    X(102, queue_info, F(queue), 0, OP_BODY_OUT,                                                   \
      "A queue's settings, and its counters: one entry each, name and count.")                     \
    X(103, queues, 0, F(prefix) | F(limit) | F(cursor), OP_BODY_OUT,                               \
      "The queues in the byte order of their names, one entry each; cursor when there are more.")  \
    X(104, queue_put, F(queue) | F(tensors), F(meta) | F(dtype) | F(shape), OP_WAITS,              \
      "Appends an item, by reference: nothing is copied. What was allocated for a queue is given " \
      "away with that. Waits for room, unless the queue does otherwise when it is full. With "     \
      "dtype and shape the reply describes memory for the next item, as allocate would give it, "  \
      "if some is free that the session has mapped.")                                              \
    X(105, queue_get, F(queue), 0, OP_BODY_OUT | OP_WAITS,                                         \
      "Takes the first item in hand, under a lease: its tensors are objects of the session, one "  \
      "entry each, until the lease is released. Waits for one.")                                   \
    X(106, queue_ack, F(lease), 0, OP_ONE_WAY,                                                     \
      "The item in hand is done with. A lease that ends without gives the item back to the "       \
      "front.")                                                                                    \
    X(107, queue_peek, F(queue), F(limit) | F(parked), OP_BODY_OUT,                                \
      "The items that wait, or are parked, without taking them, one entry each.")                  \
    X(108, queue_close, F(queue), 0, 0,                                                            \
      "The queue takes no more items; when the last is done with, who gets is told closed.")       \
    X(109, queue_drain, F(queue), F(parked), OP_IN_PLACE,                                          \
      "Drops the items that wait, or those that are parked; count tells how many.")

enum op {
#define OP_ENUM(number, name, required, optional, traits, doc) OP_##name = number,
    OPS(OP_ENUM)
#undef OP_ENUM
        OP_END
};

struct op_info {
    const char *name; /* NULL for a number without an operation */
    field_set required, optional;
    unsigned traits; /* enum op_trait */
    const char *doc;
};

/* Indexed by opcode, below OP_END. */
extern const struct op_info op_infos[OP_END];

/* The opcode of a name, 0 if there is none. */
int op_find(const char *name, size_t length);
/* Whether the fields are those the operation takes: INVALID names the first that is missing, or not
 * known to it. */
NODISCARD enum td_status op_check_fields(enum op op, const struct fields *fields);

#endif
