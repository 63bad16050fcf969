#include "net/train.h"

void train_begin(struct train *train, const void *data, size_t len)
{
	train->segment = train->bytes = len;
	train->count = train->pieces = 1;
	train->data[0] = (struct iovec){(void *)data, len};
}

static bool takes(const struct train *train, size_t len)
{
	/* Behind a shorter one there is none: it would be cut in the wrong place. */
	return len > 0 && len <= train->segment && train->count < TRAIN_MAX &&
	       train->bytes == train->count * train->segment && train->bytes + len <= TRAIN_BYTES;
}

bool train_add(struct train *train, const void *data, size_t len)
{
	struct iovec *last = &train->data[train->pieces - 1];

	if (!takes(train, len))
		return false;
	if ((const char *)last->iov_base + last->iov_len == data)
		last->iov_len += len;
	else
		train->data[train->pieces++] = (struct iovec){(void *)data, len};
	train->bytes += len;
	train->count++;
	return true;
}

bool train_next(const struct train *train, struct train_place *place, struct iovec *datagram)
{
	const struct iovec *piece = &train->data[place->piece];

	if (place->piece == train->pieces)
		return false;
	datagram->iov_base = (char *)piece->iov_base + place->offset;
	datagram->iov_len = train_first(piece->iov_len - place->offset, train->segment);
	place->offset += datagram->iov_len;
	if (place->offset == piece->iov_len)
		*place = (struct train_place){place->piece + 1, 0};
	return true;
}
