/* spin.c: how long threads wait for each other before they sleep. */
#include "spin.h"

#include <stdlib.h>
#include <unistd.h>

void cli_spin_shortly(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("GOMP_SPINCOUNT", "2000", 0) == 0) execv("/proc/self/exe", argv); /* on failure: as before, slower */
}
