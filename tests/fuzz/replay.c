/*
 * Feeds a target without libFuzzer: each file that is named, or else the target's corpus below
 * $srcdir, whole and cut after every byte.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

#define FILE_MAX_LEN	  (256 * 1024) /* bytes */
#define CUT_EACH_BYTE_MAX 600	       /* longer ones are only replayed whole */

static void feed(const char *data, size_t len)
{
	void *copy = fuzz_copy(data, len);

	LLVMFuzzerTestOneInput(copy, len);
	free(copy);
}

/* Returns false when it cannot be read. */
static bool replay(const char *path)
{
	char *data = fuzz_alloc(FILE_MAX_LEN);
	FILE *file = fopen(path, "rb");
	size_t len;

	if (file == NULL) {
		perror(path);
		free(data);
		return false;
	}
	/* Should it crash, the last line says where. */
	printf("%s\n", path);
	fflush(stdout);
	len = fread(data, 1, FILE_MAX_LEN, file);
	fclose(file);
	for (size_t cut = len <= CUT_EACH_BYTE_MAX ? 0 : len; cut <= len; cut++)
		feed(data, cut);
	free(data);
	return true;
}

/* Returns how many files were replayed; -1: one could not be read. */
static int replay_folder(const char *path)
{
	DIR *folder = opendir(path);
	const struct dirent *entry;
	char file[4096];
	int count = 0;

	if (folder == NULL) {
		perror(path);
		return -1;
	}
	while (count >= 0 && (entry = readdir(folder)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		count = replay(file) ? count + 1 : -1;
	}
	closedir(folder);
	return count;
}

int main(int argc, char **argv)
{
	const char *srcdir = getenv("srcdir");
	char path[2048];
	int count = 0;

	alarm(300);
	if (argc > 1) {
		for (int i = 1; i < argc; i++)
			if (!replay(argv[i]))
				return 1;
		return 0;
	}
	snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", srcdir != NULL ? srcdir : ".",
		 fuzz_name);
	count = replay_folder(path);
	printf("%d inputs of %s\n", count, fuzz_name);
	return count > 0 ? 0 : 1;
}
