#include "serve/proto.h"

#include <string.h>

static const struct proto *const protocols[] = {&proto_line, &proto_echo};

const struct proto *proto_find(const char *name)
{
	for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++)
		if (strcmp(protocols[i]->name, name) == 0)
			return protocols[i];
	return NULL;
}
