/* bundle_formats: the files that load and save know, for the engine. */
#ifndef SERVER_BUNDLE_FORMATS_H
#define SERVER_BUNDLE_FORMATS_H

#include "core/bundle.h"

/* safetensors (the default), npz, npy; ends with NULL. */
extern const struct bundle_format *const bundle_formats[];

#endif
