/* base/file.h: files: whole reads, read-only maps, lines of plain or gzip text, atomic writes, directories. */
#ifndef PL_FILE_H
#define PL_FILE_H

#include <stdio.h>

#include "base/base.h"

/* Whole file into *data (NUL-terminated behind len, owned: pl_free). More than max_bytes is PL_E_RANGE. */
int pl_file_read(char **data, size_t *len, const char *path, size_t max_bytes, pl_error *err);
bool pl_file_exists(const char *path);
bool pl_dir_exists(const char *path);
/* The error for a model or an adapter whose directory is not there: says that nothing is downloaded, and how to get it.
 */
int pl_dir_missing(const char *path, pl_error *err);

/* A read-only map of a whole regular file. An empty file maps to data == NULL, len == 0. Reading a part that was cut
 * off the file since is SIGBUS, which a library cannot turn into an error: who reads for long calls pl_map_check now
 * and then. */
typedef struct pl_map {
    const char *data;
    size_t len;
    int fd; /* of the file, where data is not NULL */
} pl_map;
int pl_map_open(pl_map *m, const char *path, pl_error *err);
/* PL_E_IO when the file (not one that has taken its name since) is shorter now. path: for the message. */
int pl_map_check(const pl_map *m, const char *path, pl_error *err);
/* Bytes of the map that the process holds in memory now; 0 where the system does not tell. Reads all of its mappings.
 */
size_t pl_map_resident_bytes(const pl_map *m);
void pl_map_close(pl_map *m); /* safe on zeroed storage */

/* Lines of a plain or gzip file (told by its first bytes). The line is borrowed until the next call, without its \n or
 * \r\n; a line over max_line bytes is PL_E_RANGE. Returns 0 with *line == NULL at the end. Errors say path and line. */
typedef struct pl_lines pl_lines;
int pl_lines_open(pl_lines **out, const char *path, size_t max_line, pl_error *err);
int pl_lines_next(pl_lines *l, const char **line, size_t *len, pl_error *err);
int64_t pl_lines_number(const pl_lines *l); /* 1-based number of the line last returned */
void pl_lines_free(pl_lines *l);

/* A file written to "<path>.tmp-<pid>", then synced and renamed by commit. Release without commit removes it. */
typedef struct pl_out {
    FILE *f;    /* write here */
    char *path; /* owned */
    char *temp; /* owned */
} pl_out;
int pl_out_open(pl_out *o, const char *path, pl_error *err);
int pl_out_write(pl_out *o, const void *bytes, size_t n, pl_error *err);
int pl_out_commit(pl_out *o, pl_error *err);
void pl_out_release(pl_out *o);
/* All of it in one call. */
int pl_file_write(const char *path, const void *bytes, size_t n, pl_error *err);

int pl_path_join(char **out, const char *dir, const char *name, pl_error *err);
const char *pl_path_base(const char *path);       /* borrowed: behind the last '/', trailing slashes not cut */
int pl_dir_make(const char *path, pl_error *err); /* with parents; existing is fine */
int pl_dir_sync(const char *path, pl_error *err);
/* Names in a directory without . and .., sorted bytewise; owned array of owned strings: pl_names_free. */
int pl_dir_list(char ***names, int64_t *n, const char *path, pl_error *err);
void pl_names_free(char **names, int64_t n);
int pl_dir_remove(const char *path, pl_error *err); /* the whole tree; a missing one is fine */
/* Renames and syncs the parent directory. An existing target directory is replaced. */
int pl_rename_synced(const char *from, const char *to, pl_error *err);
int pl_file_copy(const char *from, const char *to, pl_error *err);

#endif
