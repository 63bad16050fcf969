/* What the parser needs of a conf_source; conf/conf.h has the rest. */
#ifndef ECHOD_CONF_SOURCE_H
#define ECHOD_CONF_SOURCE_H

#include "conf/conf.h"

/* The text with its includes in place. */
const char *conf_source_text(const struct conf_source *source);

/* "file:line" of a line of the text; 0 or a line beyond the end: the last one. Without text: the
 * file. */
void conf_source_where(const struct conf_source *source, unsigned line, char *out, size_t cap);

#endif
