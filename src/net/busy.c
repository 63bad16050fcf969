#include "net/busy.h"

bool busy_tries(struct busy *busy)
{
	if (busy->skip == 0)
		return true;
	busy->skip--;
	return false;
}

void busy_learn(struct busy *busy, unsigned saved, bool preempted)
{
	if (saved >= (preempted ? BUSY_PAYS_SHARED : BUSY_PAYS)) {
		busy->after = 0;
		return;
	}
	if (busy->after == 0)
		busy->after = BUSY_SKIP_MIN;
	busy->skip = busy->after;
	if (busy->after < BUSY_SKIP_MAX)
		busy->after *= 2;
}
