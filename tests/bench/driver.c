#include "driver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void expect(enum td_status status, const char *what)
{
    errno = 0;
    if (status != TD_OK)
        die("%s: %s: %s", what, td_status_name((int)status), td_last_error());
}

struct td_client *tensord_connect(const struct plan *plan)
{
    struct td_client *client;
    expect(td_connect(plan->url, NULL, &client), "connecting to tensord");
    return client;
}

int peer_connect(const struct plan *plan)
{
    return plan->peer_socket ? connect_unix(plan->peer_socket) : connect_tcp(plan->peer_port);
}

/* ---- main ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*measure)(const struct plan *plan);
} measurements[] = {
    {"map", measure_map}, {"touch", measure_touch}, {"put", measure_put},
    {"get", measure_get}, {"trip", measure_trip},   {"hand", measure_hand},
};

static struct plan parse(int argc, char **argv)
{
    struct plan plan = {.repetitions = 10, .size = (size_t)8 << 20, .cpu = -1};
    for (int option; (option = getopt(argc, argv, "u:p:t:s:n:c:a")) != -1;) {
        switch (option) {
        case 'u':
            plan.url = optarg;
            break;
        case 'p':
            plan.peer_socket = optarg;
            break;
        case 't':
            plan.peer_port = atoi(optarg);
            break;
        case 's':
            plan.size = (size_t)atoi(optarg) << 20;
            break;
        case 'n':
            plan.repetitions = atoi(optarg);
            break;
        case 'c':
            plan.cpu = atoi(optarg);
            break;
        case 'a':
            plan.awake = true;
            break;
        default:
            exit(2);
        }
    }
    return plan;
}

int main(int argc, char **argv)
{
    struct plan plan = parse(argc, argv);
    if (optind >= argc)
        die("usage: driver -u URL -p SOCKET | -t PORT [-s MIB] [-n REPETITIONS] [-c CPU] [-a] "
            "map | touch | put | get | trip | hand");
    if (plan.awake)
        awake_start(); /* before there are sockets to inherit */
    if (plan.cpu >= 0)
        stay_on(plan.cpu);
    for (size_t i = 0; i < sizeof measurements / sizeof measurements[0]; i++)
        if (strcmp(measurements[i].name, argv[optind]) == 0) {
            measurements[i].measure(&plan);
            print_samples();
            return 0;
        }
    die("there is no measurement %s", argv[optind]);
}
