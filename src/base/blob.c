#include "base/blob.h"

#include <stdlib.h>
#include <string.h>

static void put(struct blob_writer *writer, const void *data, size_t len)
{
	if (writer->failed)
		return;
	if (writer->cap - writer->len < len) {
		size_t cap = (writer->len + len) * 2;
		unsigned char *larger = realloc(writer->data, cap);

		if (larger == NULL) {
			writer->failed = true;
			return;
		}
		writer->data = larger;
		writer->cap = cap;
	}
	if (len > 0)
		memcpy(writer->data + writer->len, data, len);
	writer->len += len;
}

void blob_put_u64(struct blob_writer *writer, uint64_t value)
{
	/* The reader is the same machine: its own byte order will do. */
	put(writer, &value, sizeof(value));
}

void blob_put_bytes(struct blob_writer *writer, const void *data, size_t len)
{
	blob_put_u64(writer, len);
	put(writer, data, len);
}

void blob_put_text(struct blob_writer *writer, const char *text)
{
	blob_put_bytes(writer, text, strlen(text));
}

void blob_writer_free(struct blob_writer *writer)
{
	free(writer->data);
	*writer = (struct blob_writer){0};
}

static const void *take(struct blob_reader *reader, size_t len)
{
	const void *here;

	if (reader->failed || reader->len - reader->at < len) {
		reader->failed = true;
		return NULL;
	}
	/* An empty blob may have no memory at all; its first byte has no address then. */
	here = reader->data == NULL ? (const void *)"" : reader->data + reader->at;
	reader->at += len;
	return here;
}

uint64_t blob_get_u64(struct blob_reader *reader)
{
	uint64_t value = 0;
	const void *here = take(reader, sizeof(value));

	if (here != NULL)
		memcpy(&value, here, sizeof(value));
	return value;
}

uint64_t blob_get_count(struct blob_reader *reader, uint64_t max)
{
	uint64_t value = blob_get_u64(reader);

	if (value > max) {
		reader->failed = true;
		return 0;
	}
	return value;
}

const void *blob_get_bytes(struct blob_reader *reader, size_t *len)
{
	uint64_t wanted = blob_get_u64(reader);
	const void *here = take(reader, wanted);

	*len = here == NULL ? 0 : wanted;
	return here;
}

char *blob_get_text(struct blob_reader *reader)
{
	size_t len;
	const char *here = blob_get_bytes(reader, &len);
	char *text = here == NULL ? NULL : malloc(len + 1);

	if (text == NULL) {
		reader->failed = true;
		return NULL;
	}
	memcpy(text, here, len);
	text[len] = '\0';
	return text;
}

bool blob_reader_done(const struct blob_reader *reader)
{
	return !reader->failed && reader->at == reader->len;
}
