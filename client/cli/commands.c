/* commands: the table that the command line, the help and the completion are made from. */
#include "client/cli/commands.h"

#define END                                                                                        \
    {                                                                                              \
        OPTION_NONE, 0, NULL, NULL, NULL, COMPLETE_NOTHING                                         \
    }

const struct option_row global_options[] = {
    {OPTION_URL, 0, "url", "URL", "the daemon: unix:///path, tcp://host:port", COMPLETE_NOTHING},
    {OPTION_TOKEN_FILE, 0, "token-file", "FILE", "the token is FILE's first line", COMPLETE_FILE},
    {OPTION_TIMEOUT, 0, "timeout", "TIME",
     "of each call: 30s (default), 2m; without a unit ms; 0: none", COMPLETE_NOTHING},
    {OPTION_JSON, 0, "json", NULL, "JSON for programs, with exact numbers", COMPLETE_NOTHING},
    {OPTION_QUIET, 'q', "quiet", NULL, "no progress and no messages but errors", COMPLETE_NOTHING},
    {OPTION_NO_COLOR, 0, "no-color", NULL, "no colours, as with NO_COLOR=1", COMPLETE_NOTHING},
    {OPTION_HELP, 'h', "help", NULL, "this help, or that of a command", COMPLETE_NOTHING},
    {OPTION_VERSION, 0, "version", NULL, "print the version", COMPLETE_NOTHING},
    END,
};

static const struct option_row none[] = {END};

static const struct option_row ls_options[] = {
    {OPTION_FLAT, 'f', "flat", NULL, "lines instead of a tree", COMPLETE_NOTHING},
    {OPTION_NAMES, '1', "names", NULL, "only names, one a line", COMPLETE_NOTHING},
    {OPTION_BYTES, 'b', "bytes", NULL, "exact sizes, in bytes", COMPLETE_NOTHING},
    {OPTION_DTYPE, 0, "dtype", "DTYPE", "only of this dtype", COMPLETE_DTYPE},
    {OPTION_DEVICE, 0, "device", "DEVICE", "only on this device: cpu, cuda, cuda:0",
     COMPLETE_DEVICE},
    {OPTION_KIND, 0, "kind", "KIND", "only tensors, or only variables", COMPLETE_KIND},
    {OPTION_MIN_SIZE, 0, "min-size", "SIZE", "only of at least so many bytes: 64KiB, 1GB",
     COMPLETE_NOTHING},
    {OPTION_GLOB, 0, "glob", "PATTERN", "only names like '*.weight'; * also matches /",
     COMPLETE_NOTHING},
    END,
};

static const struct option_row put_options[] = {
    {OPTION_FORMAT, 0, "format", "FORMAT", "npy, npz, safetensors, raw or json", COMPLETE_FORMAT},
    {OPTION_DTYPE, 0, "dtype", "DTYPE", "what raw bytes are; else cast to it", COMPLETE_DTYPE},
    {OPTION_SHAPE, 0, "shape", "SHAPE", "of raw bytes: 2,3", COMPLETE_NOTHING},
    {OPTION_MUTABLE, 0, "mutable", NULL, "whoever maps it may write", COMPLETE_NOTHING},
    {OPTION_REQUIRES_GRAD, 0, "requires-grad", NULL, "a variable that requires grad",
     COMPLETE_NOTHING},
    {OPTION_CREATE_ONLY, 0, "create-only", NULL, "fail if the name is taken", COMPLETE_NOTHING},
    END,
};

static const struct option_row get_options[] = {
    {OPTION_OUTPUT, 'o', "output", "FILE", "where to; - is standard output (default)",
     COMPLETE_FILE},
    {OPTION_FORMAT, 0, "format", "FORMAT", "npy, npz, safetensors, raw, json or text",
     COMPLETE_FORMAT},
    {OPTION_DTYPE, 0, "dtype", "DTYPE", "cast on the way", COMPLETE_DTYPE},
    {OPTION_PREFIX, 'p', "prefix", "PREFIX", "every name that begins with it", COMPLETE_NAME},
    END,
};

static const struct option_row load_options[] = {
    {OPTION_PREFIX, 'p', "prefix", "PREFIX", "the tensors are PREFIX/name", COMPLETE_NAME},
    {OPTION_FORMAT, 0, "format", "FORMAT", "safetensors, npz or npy; else the file tells",
     COMPLETE_WHOLE_FORMAT},
    {OPTION_DTYPE, 0, "dtype", "DTYPE", "what elements are that NumPy calls V2 or V1",
     COMPLETE_DTYPE},
    {OPTION_MUTABLE, 0, "mutable", NULL, "whoever maps them may write", COMPLETE_NOTHING},
    {OPTION_REQUIRES_GRAD, 0, "requires-grad", NULL, "variables that require grad",
     COMPLETE_NOTHING},
    {OPTION_CREATE_ONLY, 0, "create-only", NULL, "fail if a name is taken", COMPLETE_NOTHING},
    {OPTION_TTL, 0, "ttl", "TIME", "remove the names after that: 30s, 5m", COMPLETE_NOTHING},
    {OPTION_BY_DAEMON, 0, "by-daemon", NULL, "the daemon reads FILE itself (its --load-dir)",
     COMPLETE_NOTHING},
    END,
};

static const struct option_row save_options[] = {
    {OPTION_PREFIX, 'p', "prefix", "PREFIX", "the tensors PREFIX/name, as name", COMPLETE_NAME},
    {OPTION_FORMAT, 0, "format", "FORMAT", "safetensors, npz or npy; else FILE's ending tells",
     COMPLETE_WHOLE_FORMAT},
    {OPTION_DTYPE, 0, "dtype", "DTYPE", "cast on the way", COMPLETE_DTYPE},
    {OPTION_METADATA, 0, "metadata", "JSON", "of safetensors: '{\"format\": \"pt\"}'",
     COMPLETE_NOTHING},
    {OPTION_FORCE, 0, "force", NULL, "npz and npy of tensors that require grad", COMPLETE_NOTHING},
    {OPTION_BY_DAEMON, 0, "by-daemon", NULL, "the daemon writes FILE itself (its --save-dir)",
     COMPLETE_NOTHING},
    END,
};

static const struct option_row rm_options[] = {
    {OPTION_PREFIX, 'p', "prefix", "PREFIX", "every name that begins with it", COMPLETE_NAME},
    {OPTION_YES, 'y', "yes", NULL, "without asking", COMPLETE_NOTHING},
    END,
};

static const struct option_row mv_options[] = {
    {OPTION_CREATE_ONLY, 0, "create-only", NULL, "fail if NEW is taken", COMPLETE_NOTHING},
    END,
};

static const struct option_row seal_options[] = {
    {OPTION_WAIT, 'w', "wait", "TIME", "for who may write to let go: 1s (default), 0",
     COMPLETE_NOTHING},
    END,
};

static const struct option_row leases_options[] = {
    {OPTION_BYTES, 'b', "bytes", NULL, "exact sizes, in bytes", COMPLETE_NOTHING},
    END,
};

static const struct option_row op_options[] = {
    {OPTION_OUTPUT, 'o', "output", "NAME", "publish the result under NAME", COMPLETE_NAME},
    {OPTION_BODY, 0, "body", "FILE", "the elements, for operations that take some; - is stdin",
     COMPLETE_FILE},
    END,
};

static const struct option_row stats_options[] = {
    {OPTION_WATCH, 'w', "watch", "SECONDS", "again and again", COMPLETE_NOTHING},
    {OPTION_COUNT, 'c', "count", "N", "so many times (with --watch)", COMPLETE_NOTHING},
    {OPTION_BYTES, 'b', "bytes", NULL, "exact sizes, in bytes", COMPLETE_NOTHING},
    END,
};

static const struct option_row watch_options[] = {
    {OPTION_COUNT, 'c', "count", "N", "end after so many events", COMPLETE_NOTHING},
    END,
};

static const struct option_row wait_options[] = {
    {OPTION_GENERATION, 'g', "generation", "N", "until it has another generation than N",
     COMPLETE_NOTHING},
    END,
};

static const struct option_row queue_options[] = {
    {OPTION_MAX_ITEMS, 0, "max-items", "N", "create: items that wait at most", COMPLETE_NOTHING},
    {OPTION_MAX_BYTES, 0, "max-bytes", "SIZE", "create: bytes of them at most: 64MiB, 1GB",
     COMPLETE_NOTHING},
    {OPTION_WHEN_FULL, 0, "when-full", "POLICY", "create: then block, fail or drop_oldest",
     COMPLETE_POLICY},
    {OPTION_VISIBILITY, 0, "visibility", "TIME", "create: to acknowledge an item in: 30s, 5m",
     COMPLETE_NOTHING},
    {OPTION_CREATE_ONLY, 0, "create-only", NULL, "create: fail if the queue is there",
     COMPLETE_NOTHING},
    {OPTION_META, 0, "meta", "TEXT", "put: a text that goes along", COMPLETE_NOTHING},
    {OPTION_FILE, 0, "file", NULL, "put: the arguments are files", COMPLETE_NOTHING},
    {OPTION_OUTPUT, 'o', "output", "FILE", "get: the item's tensors into FILE, or - for stdout",
     COMPLETE_FILE},
    {OPTION_FORMAT, 0, "format", "FORMAT", "put, get: of the file: npy, npz, safetensors, json",
     COMPLETE_FORMAT},
    {OPTION_COUNT, 'c', "count", "N", "get, peek: so many items", COMPLETE_NOTHING},
    {OPTION_NO_ACK, 0, "no-ack", NULL, "get: the item goes back to the front", COMPLETE_NOTHING},
    {OPTION_PARKED, 0, "parked", NULL, "peek, drain: those that nobody was done with",
     COMPLETE_NOTHING},
    END,
};

static const struct option_row ping_options[] = {
    {OPTION_COUNT, 'c', "count", "N", "so many times (default 5)", COMPLETE_NOTHING},
    {OPTION_INTERVAL, 'i', "interval", "TIME", "between two: 200ms (default), 1s",
     COMPLETE_NOTHING},
    {OPTION_SIZE, 's', "size", "BYTES", "sent and returned: 64 (default) to 65536",
     COMPLETE_NOTHING},
    END,
};

static const char ls_help[] =
    "Lists tensors. On a terminal names are a tree, parted at / and . ; in a pipe, and with\n"
    "--flat, each is a line: name, dtype, shape, size, device, mode, and grad for a variable\n"
    "that requires grad. In a pipe the columns are separated by one tab each.\n";

static const char show_help[] =
    "Prints a tensor as PyTorch does. INDEX is NumPy's: 'w[0, 1:3]', 'w[..., ::2]'.\n"
    "A name that itself ends with ] is written NAME[...].\n";

static const char put_help[] =
    "Stores a file, or standard input (-). The format is --format, or that of the file's ending,\n"
    "or is found by its first bytes:\n"
    "  npy          one tensor\n"
    "  npz          each member as NAME/member\n"
    "  safetensors  one tensor as NAME; of several each as NAME/key (NAME/ has it always so)\n"
    "  json         {\"dtype\": ..., \"shape\": ..., \"data\": [...]}, or a bare nested list\n"
    "  raw          bytes as they are: --dtype says what they are, --shape their shape\n"
    "Of a file with several tensors all are stored, or none.\n";

static const char get_help[] =
    "Writes tensors to a file or to standard output. The format is --format, or that of the\n"
    "file's ending (.npy .npz .safetensors .raw .bin .json .txt), else npy, or npz for several\n"
    "tensors; on standard output json with --json. npz and safetensors hold several tensors, by\n"
    "their names; those of --prefix without the prefix and the / behind it. The file appears\n"
    "when it is complete. Binary formats are not written to a terminal.\n";

static const char load_help[] =
    "Stores all tensors of a safetensors, npz or npy file, or of standard input (-), all of them\n"
    "or none: in one request, as views over one memory. They are named PREFIX/name, without\n"
    "--prefix as in the file; the array of an npy file is PREFIX itself.\n"
    "With --by-daemon FILE is a path below a directory of the daemon's --load-dir, and not sent.\n";

static const char save_help[] =
    "Writes tensors to a file or to standard output (-), as they all are at one moment: those of\n"
    "--prefix, named without it, or those that are named ([KEY=]NAME, with KEY in the file; a\n"
    "name with a = in it is written =NAME), or all. The format is --format, or that of the\n"
    "file's ending (.safetensors .npz .npy), else safetensors. The file appears when it is\n"
    "complete.\n"
    "With --by-daemon FILE is a path below a directory of the daemon's --save-dir, and not\n"
    "fetched.\n";

static const char rm_help[] =
    "Removes names. Whoever maps or holds the tensors keeps them. --prefix asks first, and needs\n"
    "--yes where nobody can be asked.\n";

static const char seal_help[] =
    "Freezes tensors: nobody can change them any more. Memory that nobody outside the daemon has\n"
    "seen is frozen where it is. Else those who may write to it are waited for, and then the\n"
    "elements are copied; the name leads to the copy.\n";

static const char leases_help[] =
    "Who has what mapped: lease, kind (read, write, fill, item, producer), principal, process,\n"
    "session, storage, mode, size and age. \"deleted\": no name leads to the memory any more. In "
    "a\n"
    "pipe the columns are separated by one tab each.\n";

static const char principals_help[] =
    "What each user holds, and may hold: uid:N for a user of the Unix socket, tcp or token for "
    "all\n"
    "who come over TCP and HTTP. deleted_bytes are those of the bytes to which no name leads any\n"
    "more. In a pipe the columns are separated by one tab each.\n";

static const char op_help[] =
    "Runs any operation by name; without a name lists them. Values are written\n"
    "  shape=2,3  value=1.5  index='0, 1:3'  dtype=float16  requires_grad=true  input=NAME\n"
    "and a word without = is the input. The result is described; without -o NAME it is gone when\n"
    "the command ends, so it is printed as well. tensorctl op NAME --help tells the fields.\n";

static const char stats_help[] =
    "The daemon's counters. With --watch what has changed since the last time stands beside them;\n"
    "with --json as well each time is a document on a line of its own.\n";

static const char watch_help[] =
    "Prints a line whenever a name is created, replaced (or its tensor touched) or removed, until "
    "it\n"
    "is told to stop. With --json each event is a document on a line of its own.\n";

static const char wait_help[] =
    "Ends when the name is there, at once if it is already, and describes the tensor as info does\n"
    "(nothing with --quiet). --generation N waits until the name was published, or the tensor\n"
    "touched, since it had that generation, which info tells. --timeout says how long to wait: "
    "30s\n"
    "unless given, 0 for ever.\n";

static const char queue_help[] =
    "Items are tuples of tensors, handed over by reference and in order; each to one consumer.\n"
    "  ls [PREFIX]                queues: items, bytes, what a put does when it is full\n"
    "  create NAME                makes one, or checks that the one that is there is so\n"
    "  info NAME                  its settings and counters\n"
    "  put NAME [KEY=]TENSOR...   an item of tensors of the daemon, or with --file of files\n"
    "  get NAME                   takes the first item, and is done with it once it is written\n"
    "  peek NAME                  what waits, with --parked what was given back too often\n"
    "  close NAME                 no more items; who gets is told when the last one is done with\n"
    "  drain NAME                 drops what waits, with --parked what is set aside\n"
    "  rm NAME                    removes the queue\n"
    "put waits for room and get for an item as long as --timeout: 30s unless given, 0 for ever.\n"
    "With --count each item has a file: -o x.npz writes x-1.npz, x-2.npz by the items' numbers.\n"
    "A get that fails, or that is killed, gives the item back.\n";

static const char ping_help[] =
    "Measures how long the daemon takes to answer. The first answer includes nothing of the\n"
    "connection's making.\n";

static const char completion_help[] =
    "Prints a script that teaches the shell to complete commands, options, operations and names:\n"
    "  source <(tensorctl completion bash)\n"
    "  source <(tensorctl completion zsh)      after compinit\n";

const struct command commands[] = {
    {"ls", cmd_ls, "[PREFIX]", "list tensors", ls_help, ls_options, 0, 1, COMPLETE_NAME,
     COMPLETE_NOTHING},
    {"info", cmd_info, "NAME...", "all that is known of a tensor but its elements", "", none, 1, -1,
     COMPLETE_NAME, COMPLETE_NAME},
    {"show", cmd_show, "NAME[INDEX]...", "print elements as PyTorch does", show_help, none, 1, -1,
     COMPLETE_NAME, COMPLETE_NAME},
    {"put", cmd_put, "NAME FILE|-", "store a file", put_help, put_options, 2, 2, COMPLETE_NAME,
     COMPLETE_FILE},
    {"get", cmd_get, "NAME[INDEX]... [-o FILE|-]", "write tensors to a file", get_help, get_options,
     0, -1, COMPLETE_NAME, COMPLETE_NAME},
    {"load", cmd_load, "FILE|-", "store all tensors of a file", load_help, load_options, 1, 1,
     COMPLETE_FILE, COMPLETE_NOTHING},
    {"save", cmd_save, "FILE|- [[KEY=]NAME... | --prefix PREFIX]", "write all tensors to a file",
     save_help, save_options, 1, -1, COMPLETE_FILE, COMPLETE_KEYED_NAME},
    {"rm", cmd_rm, "NAME... | --prefix PREFIX", "remove names", rm_help, rm_options, 0, -1,
     COMPLETE_NAME, COMPLETE_NAME},
    {"mv", cmd_mv, "OLD NEW", "give a tensor another name", "", mv_options, 2, 2, COMPLETE_NAME,
     COMPLETE_NAME},
    {"seal", cmd_seal, "NAME...", "let nobody change a tensor any more", seal_help, seal_options, 1,
     -1, COMPLETE_NAME, COMPLETE_NAME},
    {"op", cmd_op, "[OPERATION [INPUT] [FIELD=VALUE]...]", "run any operation", op_help, op_options,
     0, -1, COMPLETE_OP, COMPLETE_FIELD},
    {"stats", cmd_stats, "", "the daemon's counters", stats_help, stats_options, 0, 0,
     COMPLETE_NOTHING, COMPLETE_NOTHING},
    {"leases", cmd_leases, "", "who has what mapped", leases_help, leases_options, 0, 0,
     COMPLETE_NOTHING, COMPLETE_NOTHING},
    {"principals", cmd_principals, "", "what each user holds, and may hold", principals_help,
     leases_options, 0, 0, COMPLETE_NOTHING, COMPLETE_NOTHING},
    {"watch", cmd_watch, "[PREFIX]", "print names as they come and go", watch_help, watch_options,
     0, 1, COMPLETE_NAME, COMPLETE_NOTHING},
    {"wait", cmd_wait, "NAME", "wait until a name is published", wait_help, wait_options, 1, 1,
     COMPLETE_NAME, COMPLETE_NOTHING},
    {"queue", cmd_queue, "ls|create|info|put|get|peek|close|drain|rm [NAME] [ARGUMENT]...",
     "hand items over from one program to another", queue_help, queue_options, 1, -1,
     COMPLETE_QUEUE_COMMAND, COMPLETE_QUEUE},
    {"ping", cmd_ping, "", "measure how fast the daemon answers", ping_help, ping_options, 0, 0,
     COMPLETE_NOTHING, COMPLETE_NOTHING},
    {"completion", cmd_completion, "bash|zsh", "print a completion script", completion_help, none,
     1, -1, COMPLETE_SHELL, COMPLETE_NOTHING},
    {"help", cmd_help, "[COMMAND | op OPERATION]", "explain a command", "", none, 0, 2,
     COMPLETE_COMMAND, COMPLETE_OP},
    {NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, COMPLETE_NOTHING, COMPLETE_NOTHING},
};
