/* doctor.c: plumb doctor: what the machine is, and what of it plumb uses. */
#include <string.h>

#include "cli.h"
#include "plumb/jsonl.h"

typedef struct doctor_options {
    bool json;
} doctor_options;

static const pl_option rows[] = {{.name = "json",
                                  .type = PL_OPT_BOOL,
                                  .offset = offsetof(doctor_options, json),
                                  .fallback = "false",
                                  .group = "Output",
                                  .help = "print one JSON object"},
                                 {0}};
static const pl_option *const tables[] = {rows, cli_thread_rows, cli_log_rows, NULL};

static void print_text(const pl_machine_report *r) {
    printf("plumb        %s\n", r->version);
    printf("processor    %s\n", r->cpu_name);
    printf("level        %s", r->level);
    if (strcmp(r->level, r->detected) != 0) printf(" (PLUMB_CPU; the machine has %s)", r->detected);
    printf("\nbf16         %s\n",
           r->native_bf16 ? "native: bf16 defaults to true" : "not native: bf16 defaults to false, and true is slower");
    printf("threads      %lld of %lld allowed, %lld online\n", (long long)r->threads, (long long)r->cores_allowed,
           (long long)r->cores_online);
    printf("products     %s\n", r->gemm);
    printf("memory       %.2f GB free for a run, %.2f GB in all", (double)r->memory_available_bytes / 1e9,
           (double)r->memory_bytes / 1e9);
    if (r->cgroup_limit_bytes >= 0) printf(", limited to %.2f GB by the cgroup", (double)r->cgroup_limit_bytes / 1e9);
    printf("\nlibraries    %s\ncompiler     %s\n", r->libraries, r->compiler);
}

static void print_string(const char *name, const char *text) {
    printf("\"%s\": ", name);
    pl_json_print_string(stdout, text, strlen(text), NULL);
    fputs(", ", stdout);
}

static void print_json(const pl_machine_report *r) {
    putchar('{');
    print_string("version", r->version);
    print_string("cpu", r->cpu_name);
    print_string("level", r->level);
    print_string("detected", r->detected);
    printf("\"native_bf16\": %s, ", r->native_bf16 ? "true" : "false");
    printf("\"threads\": %lld, \"cores_allowed\": %lld, \"cores_online\": %lld, ", (long long)r->threads,
           (long long)r->cores_allowed, (long long)r->cores_online);
    print_string("gemm", r->gemm);
    print_string("libraries", r->libraries);
    print_string("compiler", r->compiler);
    printf("\"memory_bytes\": %lld, \"memory_available_bytes\": %lld, \"cgroup_limit_bytes\": ",
           (long long)r->memory_bytes, (long long)r->memory_available_bytes);
    if (r->cgroup_limit_bytes >= 0)
        printf("%lld}\n", (long long)r->cgroup_limit_bytes);
    else
        puts("null}");
}

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    doctor_options d = {0};
    cli_common common = {0};
    void *bases[] = {&d, &common, &common};
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    pl_machine_report report;
    bool done = false;
    int rc = cli_parse(&o, ui, &cli_doctor.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) {
        pl_machine_describe(machine, &report);
        if (d.json)
            print_json(&report);
        else
            print_text(&report);
    }
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

const cli_command cli_doctor = {.desc = {.name = "doctor",
                                         .summary = "Show what the machine has and what plumb uses of it",
                                         .description = "The environment variable PLUMB_CPU (generic, avx2, avx512, "
                                                        "avx512bf16) limits the instruction set of every command.",
                                         .tables = tables},
                                .run = run};
