/* spin.h: shared by the program and the benchmarks, so that they wait in the same way. */
#ifndef CLI_SPIN_H
#define CLI_SPIN_H

/* libgomp's threads spin for milliseconds before they sleep, which on a machine with other work makes two threads
 * slower than one. It reads how long before main(): unless the environment says (OMP_WAIT_POLICY, GOMP_SPINCOUNT), the
 * program starts itself once more with short spins. */
void cli_spin_shortly(char **argv);

#endif
