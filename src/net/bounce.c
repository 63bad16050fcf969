#include "net/bounce.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PLACES	4096 /* a power of two; pages that nobody used cost nothing */
#define BACK_MS 100  /* later than this it is no loop that hurts */

/* Who answers so often is muted for so long. */
static const struct patience {
	uint32_t times;
	int64_t mute_ms;
} with_servers = {256, 10000}, with_clients = {1000000, 1000};

struct place {
	uint64_t key;
	uint64_t came; /* the watched datagram, */
	uint64_t sent; /* and the answer to it */
	uint64_t turn; /* when it last came */
	int64_t last;
	int64_t muted_until;
	uint32_t times;
};

struct bounce {
	uint64_t secret[4];
	struct place places[PLACES];
};

struct bounce *bounce_new(void)
{
	struct bounce *bounce = calloc(1, sizeof(*bounce));

	if (bounce == NULL)
		return NULL;
	/* Without a secret it works as well, only not against those who know the constants. */
	if (getrandom(bounce->secret, sizeof(bounce->secret), GRND_NONBLOCK) < 0)
		memset(bounce->secret, 0x5a, sizeof(bounce->secret));
	return bounce;
}

void bounce_free(struct bounce *bounce)
{
	free(bounce);
}

/* ---- Hashes --------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t lane, uint64_t word)
{
	lane = (lane ^ word) * UINT64_C(0x9e3779b97f4a7c15);
	return lane ^ lane >> 29;
}

static uint64_t word_at(const unsigned char *data)
{
	uint64_t word;

	memcpy(&word, data, sizeof(word));
	return word;
}

/* Four lanes, because one would wait for its own multiplications: a large datagram has many. */
static uint64_t hash_all(const struct bounce *bounce, const unsigned char *at, size_t len)
{
	uint64_t a = bounce->secret[0] ^ len, b = bounce->secret[1];
	uint64_t c = bounce->secret[2], d = bounce->secret[3];
	unsigned char last[8] = {0};

	for (; len >= 32; at += 32, len -= 32) {
		a = mix(a, word_at(at));
		b = mix(b, word_at(at + 8));
		c = mix(c, word_at(at + 16));
		d = mix(d, word_at(at + 24));
	}
	for (; len >= 8; at += 8, len -= 8)
		a = mix(a, word_at(at));
	if (len > 0)
		memcpy(last, at, len);
	a = mix(a, word_at(last));
	return mix(mix(mix(a, b), c), d);
}

uint64_t bounce_hash(const struct bounce *bounce, const void *data, size_t len)
{
	const unsigned char *bytes = data;

	if (len <= 2 * BOUNCE_END)
		return hash_all(bounce, bytes, len);
	return mix(mix(hash_all(bounce, bytes, BOUNCE_END),
		       hash_all(bounce, bytes + len - BOUNCE_END, BOUNCE_END)),
		   len);
}

struct bounce_peer bounce_peer_of(const struct bounce *bounce, const struct sockaddr *address)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
	unsigned char bytes[24] = {0};
	uint16_t port;

	if (address->sa_family == AF_INET) {
		port = ntohs(in->sin_port);
		memcpy(bytes, &in->sin_addr, sizeof(in->sin_addr));
	} else {
		port = ntohs(in6->sin6_port);
		memcpy(bytes, &in6->sin6_addr, sizeof(in6->sin6_addr));
		memcpy(bytes + 16, &in6->sin6_scope_id, sizeof(in6->sin6_scope_id));
	}
	memcpy(bytes + 20, &port, sizeof(port));
	return (struct bounce_peer){bounce_hash(bounce, bytes, sizeof(bytes)), port};
}

/* ---- The table ------------------------------------------------------------------------------ */

bool bounce_is_muted(const struct bounce *bounce, struct bounce_peer peer, int64_t now)
{
	const struct place *place = &bounce->places[peer.key % PLACES];

	return place->key == peer.key && now < place->muted_until;
}

bool bounce_matters(const struct bounce *bounce, struct bounce_peer peer, uint64_t turn)
{
	const struct place *place = &bounce->places[peer.key % PLACES];

	return place->key != peer.key || place->turn != turn;
}

/*
 * A place belongs to who uses it most: each visit of another peer wears its count down (Misra,
 * Gries: Finding Repeated Elements, 1982). A muted peer keeps it.
 */
static bool yields(struct place *place, int64_t now)
{
	if (now < place->muted_until)
		return false;
	if (now - place->last >= BACK_MS || place->times == 0)
		return true;
	place->times--;
	return false;
}

int64_t bounce_exchange(struct bounce *bounce, struct bounce_peer peer, uint64_t came,
			uint64_t sent, uint64_t turn, int64_t now)
{
	const struct patience *patience =
		peer.port < BOUNCE_CLIENT_PORTS ? &with_servers : &with_clients;
	struct place *place = &bounce->places[peer.key % PLACES];
	bool watched = place->key == peer.key;

	if (!watched && !yields(place, now))
		return 0;
	if (!watched || now - place->last >= BACK_MS) {
		*place = (struct place){peer.key, came, sent, turn, now, 0, 0};
		return 0;
	}
	if (turn == place->turn || (came != place->came && came != place->sent))
		return 0;
	place->came = came;
	place->sent = sent;
	place->turn = turn;
	place->last = now;
	if (++place->times < patience->times)
		return 0;
	place->times = 0;
	place->muted_until = now + patience->mute_ms;
	return patience->mute_ms;
}
