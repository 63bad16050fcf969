/*
 * The bucket of a rate: GCRA (ITU-T I.371), which is a token bucket that is one number, the
 * "theoretical arrival time" of the next token.
 *
 * Time is counted in units that fit the rate: SCALE_BITS is chosen so that a second has 2^33 to
 * 2^34 of them, of which a token is a power of two. So a charge is exact for every rate up to 2^34
 * a second, a unit is about 0.1 ns, and 64 bits last 34 years from the start of the machine. Above
 * 2^34 a second a unit is several tokens, and a charge is rounded up to whole units.
 */
#include "net/limits.h"

#define SCALE_BITS    33
#define US_PER_SECOND UINT64_C(1000000)

/* No debt is deeper, in units (about half a year): an arrival beyond that is none of ours. */
#define DEBT_MAX (UINT64_C(1) << 58)

struct scale {
	int shift;	 /* a token is 2^shift units; negative: a unit is 2^-shift tokens */
	uint64_t second; /* units a second */
};

static struct scale scale_of(uint64_t rate)
{
	int shift = SCALE_BITS - (63 - __builtin_clzll(rate));

	return (struct scale){
		.shift = shift,
		.second = shift >= 0 ? rate << shift : rate >> -shift,
	};
}

/* Both products stay below 2^64: the second's part is below 10^6 * 2^34. */
static uint64_t units_of_time(const struct scale *scale, uint64_t us)
{
	return us / US_PER_SECOND * scale->second +
	       us % US_PER_SECOND * scale->second / US_PER_SECOND;
}

/* Rounded up: whoever waits so long does not come too early. */
static uint64_t time_of_units(const struct scale *scale, uint64_t units)
{
	uint64_t rest = units % scale->second * US_PER_SECOND;

	return units / scale->second * US_PER_SECOND + (rest + scale->second - 1) / scale->second;
}

static uint64_t units_of_tokens(const struct scale *scale, uint64_t n)
{
	uint64_t units;

	if (scale->shift >= 0)
		return n > DEBT_MAX >> scale->shift ? DEBT_MAX : n << scale->shift;
	units = n >> -scale->shift;
	if (units << -scale->shift != n)
		units++;
	return units > DEBT_MAX ? DEBT_MAX : units;
}

/* How far the bucket is below its brim. */
static uint64_t missing(uint64_t arrival, uint64_t now)
{
	return arrival > now && arrival - now <= DEBT_MAX ? arrival - now : 0;
}

uint64_t bucket_left(uint64_t arrival, uint64_t rate, uint64_t now, uint64_t *wait)
{
	struct scale scale = scale_of(rate);
	uint64_t gone = missing(arrival, units_of_time(&scale, now));
	uint64_t token = scale.shift > 0 ? UINT64_C(1) << scale.shift : 1;

	*wait = 0;
	if (gone == 0)
		return rate;
	if (gone + token > scale.second) {
		*wait = time_of_units(&scale, gone + token - scale.second);
		return 0;
	}
	return scale.shift >= 0 ? (scale.second - gone) >> scale.shift
				: (scale.second - gone) << -scale.shift;
}

void bucket_charge(uint64_t *arrival, uint64_t rate, uint64_t n, uint64_t now)
{
	struct scale scale = scale_of(rate);
	uint64_t at = units_of_time(&scale, now);
	uint64_t gone = missing(*arrival, at) + units_of_tokens(&scale, n);

	*arrival = at + (gone < DEBT_MAX ? gone : DEBT_MAX);
}

void bucket_refund(uint64_t *arrival, uint64_t rate, uint64_t n)
{
	struct scale scale = scale_of(rate);
	uint64_t units = units_of_tokens(&scale, n);

	*arrival = *arrival > units ? *arrival - units : 0;
}
