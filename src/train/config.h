/* train/config.h: what the files of train/ share about the configuration. */
#ifndef PL_TRAIN_CONFIG_H
#define PL_TRAIN_CONFIG_H

#include "base/base.h"
#include "base/buf.h"
#include "plumb/train.h"

#endif
