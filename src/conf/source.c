/*
 * Reading the file: includes are put in place here, not by libconfig, so that the whole text can be
 * handed over, and every line keeps the name and number that its author knows.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "conf/source.h"

#define SOURCE_FILE_MAX	 (1024 * 1024) /* bytes a file */
#define SOURCE_FILES_MAX 64
#define SOURCE_DEPTH_MAX 10

struct origin {
	uint32_t file;
	uint32_t line;
};

struct conf_source {
	char *text;
	size_t len;
	struct origin *origins; /* one a line of the text */
	size_t line_count;
	char **files; /* [0] is the main file; empty for the built-in default */
	size_t file_count;
};

/* Where in the grammar the reader stands; it outlives the end of a line only in a string or
 * comment. */
enum state { NORMAL, STRING, BLOCK_COMMENT };

void conf_errors_add(struct conf_errors *errors, const char *where, const char *format, ...)
{
	char text[ERROR_TEXT_MAX];
	char **larger = realloc(errors->lines, (errors->count + 1) * sizeof(*larger));
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	/* Without memory the text is lost, but never the fact that something is wrong. */
	if (larger != NULL)
		errors->lines = larger;
	if (larger == NULL || asprintf(&larger[errors->count], "%s: %s", where, text) < 0) {
		errors->unreadable = true;
		return;
	}
	errors->count++;
}

void conf_errors_free(struct conf_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		free(errors->lines[i]);
	free(errors->lines);
	*errors = (struct conf_errors){0};
}

void conf_source_where(const struct conf_source *source, unsigned line, char *out, size_t cap)
{
	if (source->line_count == 0) {
		snprintf(out, cap, "%s",
			 source->file_count > 0 ? source->files[0] : "built-in default");
		return;
	}
	/* A parser that missed something at the end of the file says so one line behind it. */
	if (line == 0 || line > source->line_count)
		line = (unsigned)source->line_count;
	snprintf(out, cap, "%s:%u", source->files[source->origins[line - 1].file],
		 source->origins[line - 1].line);
}

const char *conf_source_text(const struct conf_source *source)
{
	return source->text;
}

const char *conf_source_path(const struct conf_source *source)
{
	return source->file_count > 0 ? source->files[0] : NULL;
}

/* ---- Scanning a line ------------------------------------------------------------------------ */

/*
 * libconfig 1.5 reads 5000000000 as 705032704 and says nothing: an integer without an L must fit
 * into 32 bits, one with it into 64. `p` stands on its first character. Returns the first character
 * behind it.
 */
static const char *scan_number(const char *p, const char *where, struct conf_errors *errors)
{
	const char *start = p;
	char number[80];
	bool integer = true, hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
	size_t len;
	long long value;
	char *end;

	if (*p == '-' || *p == '+')
		p++;
	while (isalnum((unsigned char)*p) || *p == '.' ||
	       ((*p == '-' || *p == '+') && !hex && (p[-1] == 'e' || p[-1] == 'E'))) {
		if (*p == '.' || (!hex && (*p == 'e' || *p == 'E')))
			integer = false;
		p++;
	}
	len = (size_t)(p - start);
	if (!integer)
		return p;
	snprintf(number, sizeof(number), "%.*s", (int)len, start);
	errno = 0;
	value = strtoll(number, &end, hex ? 16 : 10);
	if (errno == ERANGE && value != 0)
		conf_errors_add(errors, where, "the number %s does not fit into 64 bits", number);
	else if (len >= sizeof(number) || (*end != 'L' && hex && value > INT32_MAX) ||
		 (*end != 'L' && !hex && (value > INT32_MAX || value < INT32_MIN)))
		conf_errors_add(
			errors, where,
			"the number %s does not fit into 32 bits: write it with an L behind it, or "
			"as a string with a unit",
			number);
	return p;
}

/*
 * Go through one line; `state` says what it starts in and is left as what the next line starts in.
 */
static void scan_line(const char *p, const char *end, enum state *state, const char *where,
		      struct conf_errors *errors)
{
	while (p < end) {
		if (*state == STRING) {
			if (*p == '\\')
				p++;
			else if (*p == '"')
				*state = NORMAL;
			p++;
		} else if (*state == BLOCK_COMMENT) {
			if (p[0] == '*' && p[1] == '/') {
				*state = NORMAL;
				p++;
			}
			p++;
		} else if (*p == '#' || (p[0] == '/' && p[1] == '/')) {
			return;
		} else if (p[0] == '/' && p[1] == '*') {
			*state = BLOCK_COMMENT;
			p += 2;
		} else if (*p == '"') {
			*state = STRING;
			p++;
		} else if (isalpha((unsigned char)*p) || *p == '*') {
			while (isalnum((unsigned char)*p) || strchr("-_*", *p) != NULL) {
				if (*p == '\0')
					return;
				p++;
			}
		} else if (isdigit((unsigned char)*p) ||
			   (*p == '.' && isdigit((unsigned char)p[1])) ||
			   ((*p == '-' || *p == '+') && isdigit((unsigned char)p[1]))) {
			p = scan_number(p, where, errors);
		} else {
			p++;
		}
	}
}

/* The path of a line that is @include "path", in fresh memory; NULL for any other line. */
static char *include_path(const char *line, const char *end, const char *including,
			  const char **rest)
{
	const char *slash = strrchr(including, '/'), *open, *close;
	char *path;

	while (line < end && (*line == ' ' || *line == '\t'))
		line++;
	if (end - line < 8 || strncmp(line, "@include", 8) != 0)
		return NULL;
	open = memchr(line, '"', (size_t)(end - line));
	close = open == NULL ? NULL : memchr(open + 1, '"', (size_t)(end - open - 1));
	if (close == NULL)
		return NULL;
	*rest = close + 1;
	if (open[1] == '/')
		return strndup(open + 1, (size_t)(close - open - 1));
	if (asprintf(&path, "%.*s/%.*s", (int)(slash - including), including,
		     (int)(close - open - 1), open + 1) < 0)
		return NULL;
	return path;
}

/* ---- Putting the text together -------------------------------------------------------------- */

static int add_line(struct conf_source *source, const char *line, size_t len, struct origin origin)
{
	char *text = realloc(source->text, source->len + len + 2);
	struct origin *origins;

	if (text == NULL)
		return -1;
	source->text = text;
	origins = realloc(source->origins, (source->line_count + 1) * sizeof(*origins));
	if (origins == NULL)
		return -1;
	source->origins = origins;
	memcpy(text + source->len, line, len);
	text[source->len + len] = '\n';
	source->len += len + 1;
	text[source->len] = '\0';
	origins[source->line_count++] = origin;
	return 0;
}

/*
 * `where` is the file itself, or the line that includes it: then the message has to name the file.
 */
static void add_file_error(struct conf_errors *errors, const char *path, const char *where,
			   const char *problem)
{
	if (strcmp(path, where) == 0)
		conf_errors_add(errors, where, "the configuration file %s", problem);
	else
		conf_errors_add(errors, where, "the included file %s %s", path, problem);
}

static void add_read_error(struct conf_errors *errors, const char *path, const char *where)
{
	char problem[128];

	errors->unreadable = errno == EACCES;
	snprintf(problem, sizeof(problem), "cannot be read: %s", strerror(errno));
	add_file_error(errors, path, where, problem);
}

static char *read_file(const char *path, const char *where, struct conf_errors *errors)
{
	/* O_NONBLOCK: a FIFO in its place must not hang a restart. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	char *text = NULL;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &st) < 0) {
		add_read_error(errors, path, where);
	} else if (!S_ISREG(st.st_mode)) {
		add_file_error(errors, path, where, "is not a regular file");
	} else if (geteuid() == 0 && (st.st_mode & S_IWOTH)) {
		add_file_error(errors, path, where,
			       "is writable by everybody, so root will not obey it: chmod o-w");
	} else {
		text = io_read_to_end(fd, SOURCE_FILE_MAX, &len);
		if (text == NULL)
			add_read_error(errors, path, where);
		else if (strlen(text) != len)
			add_file_error(errors, path, where, "holds a NUL byte");
	}
	if (fd >= 0)
		close(fd);
	return text;
}

static int add_file(struct conf_source *source, const char *path, const char *where, int depth,
		    enum state *state, struct conf_errors *errors);

static int add_text(struct conf_source *source, const char *text, uint32_t file, int depth,
		    enum state *state, struct conf_errors *errors)
{
	uint32_t number = 0;

	while (*text != '\0') {
		const char *end = strchrnul(text, '\n');
		struct origin origin = {file, ++number};
		char where[4096];
		char *include = NULL;
		const char *rest = end;

		snprintf(where, sizeof(where), "%s:%u", source->files[file], number);
		if (*state == NORMAL)
			include = include_path(text, end, source->files[file], &rest);
		if (include != NULL) {
			int result = add_file(source, include, where, depth + 1, state, errors);

			free(include);
			if (result < 0)
				return -1;
			while (rest < end && isspace((unsigned char)*rest))
				rest++;
			if (rest < end && *rest != '#' && strncmp(rest, "//", 2) != 0)
				conf_errors_add(errors, where,
						"nothing may follow an include on its line");
		} else {
			scan_line(text, end, state, where, errors);
			if (add_line(source, text, (size_t)(end - text), origin) < 0)
				return -1;
		}
		text = *end == '\0' ? end : end + 1;
	}
	return 0;
}

/* Returns -1 when the file cannot be read; errors say why. */
static int add_file(struct conf_source *source, const char *path, const char *where, int depth,
		    enum state *state, struct conf_errors *errors)
{
	char **files = realloc(source->files, (source->file_count + 1) * sizeof(*files));
	char *text;
	int result;

	if (files == NULL) {
		conf_errors_add(errors, where, "no memory to read %s", path);
		return -1;
	}
	source->files = files;
	if (depth > SOURCE_DEPTH_MAX || source->file_count >= SOURCE_FILES_MAX) {
		conf_errors_add(errors, where,
				"the include of %s is one too many: %d deep, %d files are allowed",
				path, SOURCE_DEPTH_MAX, SOURCE_FILES_MAX);
		return -1;
	}
	files[source->file_count] = strdup(path);
	if (files[source->file_count] == NULL)
		return -1;
	source->file_count++;
	text = read_file(path, where, errors);
	if (text == NULL)
		return -1;
	result = add_text(source, text, (uint32_t)source->file_count - 1, depth, state, errors);
	free(text);
	return result;
}

struct conf_source *conf_source_load(const char *path, struct conf_errors *errors)
{
	struct conf_source *source = calloc(1, sizeof(*source));
	enum state state = NORMAL;

	if (source == NULL || (source->text = strdup("")) == NULL) {
		conf_errors_add(errors, path == NULL ? "configuration" : path,
				"no memory to read it");
	} else if (path == NULL || add_file(source, path, path, 0, &state, errors) == 0) {
		if (state == BLOCK_COMMENT)
			conf_errors_add(errors, path, "a remark that begins with /* has no end");
		return source;
	}
	conf_source_free(source);
	errors->not_understood = true;
	return NULL;
}

void conf_source_free(struct conf_source *source)
{
	if (source == NULL)
		return;
	for (size_t i = 0; i < source->file_count; i++)
		free(source->files[i]);
	free(source->files);
	free(source->origins);
	free(source->text);
	free(source);
}

/* ---- Handing it over ------------------------------------------------------------------------ */

void conf_source_pack(const struct conf_source *source, struct blob_writer *writer)
{
	blob_put_u64(writer, source->file_count);
	for (size_t i = 0; i < source->file_count; i++)
		blob_put_text(writer, source->files[i]);
	blob_put_text(writer, source->text);
	blob_put_u64(writer, source->line_count);
	for (size_t i = 0; i < source->line_count; i++) {
		blob_put_u64(writer, source->origins[i].file);
		blob_put_u64(writer, source->origins[i].line);
	}
}

struct conf_source *conf_source_unpack(struct blob_reader *reader)
{
	struct conf_source *source = calloc(1, sizeof(*source));
	size_t files, lines;

	if (source == NULL)
		return NULL;
	files = blob_get_count(reader, SOURCE_FILES_MAX);
	source->files = calloc(files + 1, sizeof(*source->files));
	for (size_t i = 0; i < files && source->files != NULL; i++) {
		source->files[i] = blob_get_text(reader);
		if (source->files[i] == NULL)
			break;
		source->file_count++;
	}
	source->text = blob_get_text(reader);
	lines = blob_get_count(reader, (uint64_t)SOURCE_FILE_MAX * SOURCE_FILES_MAX);
	/*
	 * Each line takes 16 bytes of the blob: a count that lies is seen before it costs memory.
	 */
	if (lines > reader->len / 16)
		reader->failed = true;
	if (!reader->failed && lines > 0)
		source->origins = calloc(lines, sizeof(*source->origins));
	for (size_t i = 0; i < lines && source->origins != NULL; i++) {
		source->origins[i].file = (uint32_t)blob_get_u64(reader);
		source->origins[i].line = (uint32_t)blob_get_u64(reader);
		if (source->origins[i].file >= source->file_count)
			reader->failed = true;
		source->line_count++;
	}
	if (reader->failed || source->files == NULL || (lines > 0 && source->origins == NULL)) {
		reader->failed = true;
		conf_source_free(source);
		return NULL;
	}
	source->len = strlen(source->text);
	return source;
}
