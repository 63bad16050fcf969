#include "serve/proto.h"

#include <string.h>

static const struct proto *const protocols[] = {
	&proto_line,	&proto_echo, &proto_discard, &proto_chargen,
	&proto_daytime, &proto_time, &proto_whoami,
};

const struct proto *proto_find(const char *name)
{
	for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++)
		if (strcmp(protocols[i]->name, name) == 0)
			return protocols[i];
	return NULL;
}
