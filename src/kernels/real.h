/* kernels/real.h: the number type of activations and gradients: float, or double in the build that checks gradients
 * (PL_REAL_IS_DOUBLE: reference kernels only, no oneDNN). */
#ifndef PL_REAL_H
#define PL_REAL_H

#include <math.h>

#include "plumb/tensor.h"

#ifdef PL_REAL_IS_DOUBLE
typedef double real;
#define PL_REAL PL_F64
#define r_exp exp
#define r_log log
#define r_log1p log1p
#define r_sqrt sqrt
#define r_fabs fabs
#else
typedef float real;
#define PL_REAL PL_F32
#define r_exp expf
#define r_log logf
#define r_log1p log1pf
#define r_sqrt sqrtf
#define r_fabs fabsf
#endif

#endif
