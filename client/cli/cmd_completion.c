/* completion: scripts for shells, and the answers to their questions.
 *
 * The scripts are glue: they hand the words up to the cursor to `tensorctl completion reply -- WORD
 * ...`, which prints what may stand in the place of the last one, a line each. So what the shells
 * know comes from the same tables as the rest.
 */
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/help.h"
#include "client/cli/names.h"
#include "core/fields.h"

#include <string.h>

#define NAMES_OFFERED 1000

static const char bash_script[] =
    "# bash completion for tensorctl: source <(tensorctl completion bash)\n"
    "_tensorctl() {\n"
    "    local line=${COMP_LINE:0:COMP_POINT} IFS=$' \\t\\n' breaks='' quote='' c cur prefix\n"
    "    local -a words candidates\n"
    "    read -a words <<<\"$line\" # without -r: takes the backslashes away\n"
    "    [[ $line == *' ' && $line != *'\\ ' ]] && words+=('')\n"
    "    cur=${words[-1]}\n"
    "    case $cur in [\\'\\\"]*) quote=${cur:0:1} cur=${cur:1} words[-1]=$cur ;; esac\n"
    "    mapfile -t candidates < <(\"${words[0]/#\\~/$HOME}\" completion reply -- \\\n"
    "        \"${words[@]:1}\" 2>/dev/null)\n"
    "    COMPREPLY=()\n"
    "    if [[ ${candidates[0]} == :files ]]; then\n"
    "        compopt -o filenames 2>/dev/null\n"
    "        mapfile -t COMPREPLY < <(compgen -f -- \"${cur##*=}\")\n"
    "        return\n"
    "    fi\n"
    "    # Readline replaces only what stands behind the last of its word breaks.\n"
    "    for c in : = @; do [[ $COMP_WORDBREAKS == *$c* ]] && breaks+=$c; done\n"
    "    [[ $breaks && ! $quote ]] && prefix=${cur%\"${cur##*[$breaks]}\"}\n"
    "    for c in \"${candidates[@]}\"; do\n"
    "        c=${c#\"$prefix\"}\n"
    "        [[ $quote ]] || printf -v c %q \"$c\"\n"
    "        COMPREPLY+=(\"$c\")\n"
    "    done\n"
    "    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null\n"
    "    return 0\n"
    "}\n"
    "complete -F _tensorctl tensorctl\n";

static const char zsh_script[] =
    "#compdef tensorctl\n"
    "# zsh completion for tensorctl: source <(tensorctl completion zsh), after compinit\n"
    "_tensorctl() {\n"
    "    local -a candidates\n"
    "    candidates=(\"${(@f)$(\"${(Q)words[1]}\" completion reply -- \\\n"
    "        \"${(@Q)words[2,CURRENT-1]}\" \"${(Q)PREFIX}\" 2>/dev/null)}\")\n"
    "    candidates=(${candidates:#})\n"
    "    if [[ $candidates[1] == :files ]]; then\n"
    "        _files\n"
    "        return\n"
    "    fi\n"
    "    compadd -S '' -- ${(M)candidates:#*=}\n"
    "    compadd -- ${candidates:#*=}\n"
    "}\n"
    "if [[ $funcstack[1] == _tensorctl ]]; then\n"
    "    _tensorctl \"$@\"\n"
    "else\n"
    "    compdef _tensorctl tensorctl\n"
    "fi\n";

/* ---- candidates ---------------------------------------------------------------------------- */

/* What is asked: candidates begin with `word`, and are printed behind `before`. */
struct question {
    struct cli *cli;
    const char *before, *word;
};

static void offer(const struct question *question, const char *candidate, const char *after)
{
    if (strncmp(candidate, question->word, strlen(question->word)) == 0)
        printf("%s%s%s\n", question->before, candidate, after);
}

static enum td_status offer_name(void *argument, const struct td_reply *entry)
{
    const char *name;
    if (td_reply_text(entry, "name", &name) || td_reply_text(entry, "queue", &name))
        offer(argument, name, "");
    return TD_OK;
}

/* Without a daemon there are no names, which is no error here. */
static void offer_entries(const struct question *question, const char *op)
{
    if (!cli_has(question->cli, OPTION_TIMEOUT))
        question->cli->options[OPTION_TIMEOUT] = "2s"; /* somebody waits at the prompt */
    if (entries_each(question->cli, op, question->word, NAMES_OFFERED, offer_name,
                     (void *)(uintptr_t)question) != TD_OK)
        return;
}

static void offer_names(const struct question *question)
{
    offer_entries(question, "list");
}

/* [KEY=]NAME. */
static void offer_keyed_names(const struct question *question)
{
    const char *equals = strchr(question->word, '=');
    char before[NAME_SIZE];
    if (!equals) {
        offer_names(question);
        return;
    }
    snprintf(before, sizeof before, "%.*s", (int)(equals + 1 - question->word), question->word);
    struct question value = {question->cli, before, equals + 1};
    offer_names(&value);
}

/* Behind put and the queue's name stand tensors, with or without a key, or with --file files. */
static void offer_of_queue(const struct question *question, const char *command)
{
    const struct cli *cli = question->cli;
    bool put = command && strcmp(command, "put") == 0;
    if (cli->count == 1) {
        offer_entries(question, "queues");
    } else if (put && cli_has(cli, OPTION_FILE)) {
        puts(":files");
    } else if (put) {
        offer_keyed_names(question);
    }
}

static void offer_words(const struct question *question, const char *words, const char *after)
{
    for (char word[WORD_SIZE]; word_next(&words, word);)
        offer(question, word, after);
}

static void offer_dtypes(const struct question *question)
{
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++)
        offer(question, td_dtype_name(dtype), "");
}

static void offer_ops(const struct question *question)
{
    struct td_op_description op;
    for (int i = 0; td_op_info(i, &op); i++)
        offer(question, op.name, "");
}

static void answer(const struct question *question, enum completion completion, const char *op);

/* field=value of an operation, its input first of all. */
static void offer_fields(const struct question *question, const char *name)
{
    struct td_op_description op;
    const char *equals = strchr(question->word, '=');
    if (!name || !op_described(name, &op))
        return;
    if (!equals) {
        offer_words(question, op.required, "=");
        offer_words(question, op.optional, "=");
        offer_names(question);
        return;
    }
    int field = field_find(question->word, (size_t)(equals - question->word));
    char before[64];
    snprintf(before, sizeof before, "%.*s", (int)(equals + 1 - question->word), question->word);
    struct question value = {question->cli, before, equals + 1};
    if (field == FIELD_input || field == FIELD_other || field == FIELD_output)
        answer(&value, COMPLETE_NAME, NULL);
    else if (field == FIELD_dtype)
        answer(&value, COMPLETE_DTYPE, NULL);
    else if (field == FIELD_device)
        answer(&value, COMPLETE_DEVICE, NULL);
    else if (field == FIELD_casting)
        offer_words(&value, "unsafe same_kind safe", "");
    else if (field && field_infos[field].type == FIELD_TYPE_BOOL)
        offer_words(&value, "true false", "");
}

static void answer(const struct question *question, enum completion completion, const char *op)
{
    switch (completion) {
    case COMPLETE_NAME:
        offer_names(question);
        break;
    case COMPLETE_FILE:
        puts(":files");
        break;
    case COMPLETE_COMMAND:
        for (const struct command *c = commands; c->name; c++)
            offer(question, c->name, "");
        break;
    case COMPLETE_OP:
        offer_ops(question);
        break;
    case COMPLETE_FIELD:
        offer_fields(question, op);
        break;
    case COMPLETE_DTYPE:
        offer_dtypes(question);
        break;
    case COMPLETE_FORMAT:
    case COMPLETE_WHOLE_FORMAT:
        for (enum format format = FORMAT_NPY; format < FORMAT_END; format++)
            if (completion == COMPLETE_FORMAT || format_infos[format].whole)
                offer(question, format_infos[format].name, "");
        break;
    case COMPLETE_KEYED_NAME:
        offer_keyed_names(question);
        break;
    case COMPLETE_KIND:
        offer_words(question, "tensor variable", "");
        break;
    case COMPLETE_DEVICE:
        offer_words(question, "cpu cuda", "");
        break;
    case COMPLETE_QUEUE_COMMAND:
        for (size_t i = 0; queue_subcommand(i); i++)
            offer(question, queue_subcommand(i), "");
        break;
    case COMPLETE_QUEUE:
        offer_of_queue(question, op);
        break;
    case COMPLETE_POLICY:
        offer_words(question, "block fail drop_oldest", "");
        break;
    case COMPLETE_SHELL:
        offer_words(question, "bash zsh", "");
        break;
    case COMPLETE_NOTHING:
        break;
    }
}

/* ---- the words before ---------------------------------------------------------------------- */

static const struct option_row *option_of(const struct command *command, const char *word)
{
    if (strncmp(word, "--", 2) == 0)
        return option_find(command, word + 2, strcspn(word + 2, "="), 0);
    bool letter = word[0] == '-' && word[1] && !word[2];
    return letter ? option_find(command, NULL, 0, word[1]) : NULL;
}

static void offer_options(const struct question *question, const struct command *command)
{
    const struct option_row *tables[] = {command ? command->options : NULL, global_options};
    for (size_t i = 0; i < 2; i++)
        for (const struct option_row *row = tables[i]; row && row->id != OPTION_NONE; row++) {
            char name[64];
            snprintf(name, sizeof name, "--%s", row->name);
            offer(question, name, "");
        }
}

/* The last of the words is the one that is being written. */
static void reply_to(struct cli *cli, int count, char **words)
{
    const struct command *command = NULL;
    const struct option_row *pending = NULL; /* an option that waits for its argument */
    const char *op = NULL;
    int arguments = 0;
    for (int i = 0; i + 1 < count; i++) {
        const char *word = words[i];
        if (pending) {
            cli->options[pending->id] = word; /* --url, say, which the names come from */
            pending = NULL;
        } else if (word[0] == '-' && word[1]) {
            const struct option_row *row = option_of(command, word);
            const char *equals = strchr(word, '=');
            pending = row && row->argument && !equals ? row : NULL;
            if (row && equals)
                cli->options[row->id] = equals + 1;
            else if (row && !row->argument)
                cli->options[row->id] = "";
        } else if (!command) {
            command = command_find(word);
            if (!command)
                return;
        } else if (arguments++ == 0) {
            op = word;
        }
    }
    cli->count = arguments; /* those that stand before */
    struct question question = {cli, "", words[count - 1]};
    const struct option_row *option = option_of(command, question.word);
    const char *equals = strchr(question.word, '=');
    char before[64];
    if (option && option->argument && equals) { /* --dtype=fl */
        snprintf(before, sizeof before, "%.*s", (int)(equals + 1 - question.word), question.word);
        question = (struct question){cli, before, equals + 1};
        pending = option;
    }
    if (pending)
        answer(&question, pending->completion, NULL);
    else if (question.word[0] == '-')
        offer_options(&question, command);
    else if (!command)
        answer(&question, COMPLETE_COMMAND, NULL);
    else
        answer(&question, arguments == 0 ? command->first : command->rest, op);
}

enum td_status cmd_completion(struct cli *cli)
{
    const char *shell = cli->arguments[0];
    if (strcmp(shell, "reply") == 0 && cli->count > 1)
        reply_to(cli, cli->count - 1, cli->arguments + 1);
    else if (strcmp(shell, "bash") == 0 && cli->count == 1)
        fputs(bash_script, stdout);
    else if (strcmp(shell, "zsh") == 0 && cli->count == 1)
        fputs(zsh_script, stdout);
    else
        return cli_misused(cli, "completion is for bash or zsh, not '%s'", shell);
    return TD_OK;
}
