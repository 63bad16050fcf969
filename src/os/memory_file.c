#include "os/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"

#define SEALS_SIZE (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SEALS_ALL  (SEALS_SIZE | F_SEAL_WRITE)
#define READ_MAX   (64u * 1024 * 1024)

int memory_file_shared(const char *name, size_t size, struct error *err)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return error_errno(err, "cannot make the memory file %s", name);
	if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, SEALS_SIZE) == 0)
		return fd;
	error_errno(err, "cannot set up the memory file %s", name);
	close(fd);
	return -1;
}

int memory_file_sealed(const char *name, const void *data, size_t len, struct error *err)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return error_errno(err, "cannot make the memory file %s", name);
	if (io_write_all(fd, data, len) == 0 && fcntl(fd, F_ADD_SEALS, SEALS_ALL) == 0)
		return fd;
	error_errno(err, "cannot fill the memory file %s", name);
	close(fd);
	return -1;
}

int memory_file_is_shared(int fd, size_t size)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	return seals >= 0 && (seals & SEALS_SIZE) == SEALS_SIZE && fstat(fd, &st) == 0 &&
	       st.st_size == (off_t)size;
}

void *memory_file_read(int fd, size_t *len, struct error *err)
{
	int seals = fcntl(fd, F_GET_SEALS);
	void *data;

	if (seals < 0 || (seals & SEALS_ALL) != SEALS_ALL) {
		error_set(err, EXIT_FAILED, "descriptor %d is not a sealed memory file", fd);
		return NULL;
	}
	if (lseek(fd, 0, SEEK_SET) < 0) {
		error_errno(err, "cannot read the memory file");
		return NULL;
	}
	data = io_read_to_end(fd, READ_MAX, len);
	if (data == NULL)
		error_errno(err, "cannot read the memory file");
	return data;
}
