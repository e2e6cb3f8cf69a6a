/* libssh as a client: every key exchange and cipher it has, a command's status, data through
 * standard input, a terminal, files by SFTP while keys change, a tree of folders, what fails.
 * Compiled and run by tests/clients.rs:
 *
 *   libssh PORT USER KEY INPUT FOLDER OTHER
 *
 * INPUT goes through `sha256sum`, whose output is printed. Within FOLDER, the file `small` goes by
 * SFTP to `there` and from there to `back`, the tree `here` to `copy` and from there to `again`;
 * nobody knows the key `stranger`. OTHER is a user who may not read what is root's. */
#include <dirent.h>
#include <fcntl.h>
#include <libssh/libssh.h>
#include <libssh/sftp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static unsigned port;
static const char *user, *key_file;

static void check(int good, const char *what, void *at) {
    if (good) return;
    fprintf(stderr, "%s: %s\n", what, at ? ssh_get_error(at) : "");
    exit(1);
}

/* What a connection is to use, and nothing else is offered; null is libssh's own choice. */
static ssh_session connected(const char *exchange, const char *cipher, const char *host_key,
                             uint64_t rekey_bytes) {
    const char *shown;
    ssh_session session = ssh_new();
    int no = 0, yes = 1;
    long seconds = 30;
    ssh_options_set(session, SSH_OPTIONS_HOST, "127.0.0.1");
    ssh_options_set(session, SSH_OPTIONS_PORT, &port);
    ssh_options_set(session, SSH_OPTIONS_USER, user);
    ssh_options_set(session, SSH_OPTIONS_PROCESS_CONFIG, &no);
    ssh_options_set(session, SSH_OPTIONS_TIMEOUT, &seconds);
    ssh_options_set(session, SSH_OPTIONS_NODELAY, &yes);
    shown = exchange ? exchange : "connect";
    if (exchange) check(!ssh_options_set(session, SSH_OPTIONS_KEY_EXCHANGE, exchange), exchange, session);
    if (cipher) check(!ssh_options_set(session, SSH_OPTIONS_CIPHERS_C_S, cipher), cipher, session);
    if (cipher) check(!ssh_options_set(session, SSH_OPTIONS_CIPHERS_S_C, cipher), cipher, session);
    if (host_key) check(!ssh_options_set(session, SSH_OPTIONS_HOSTKEYS, host_key), host_key, session);
    if (rekey_bytes) ssh_options_set(session, SSH_OPTIONS_REKEY_DATA, &rekey_bytes);
    check(ssh_connect(session) == SSH_OK, shown, session);
    return session;
}

static int authenticate(ssh_session session) {
    ssh_key key = NULL;
    int answer;
    check(!ssh_pki_import_privkey_file(key_file, NULL, NULL, NULL, &key), "key", NULL);
    answer = ssh_userauth_publickey(session, NULL, key);
    ssh_key_free(key);
    return answer;
}

static ssh_session login(const char *exchange, const char *cipher, const char *host_key,
                         uint64_t rekey_bytes) {
    ssh_session session = connected(exchange, cipher, host_key, rekey_bytes);
    check(authenticate(session) == SSH_AUTH_SUCCESS, "login", session);
    return session;
}

static void leave(ssh_session session) {
    ssh_disconnect(session);
    ssh_free(session);
}

/* Runs a command on `input`, if any; prints its output and gives its status. */
static int run(ssh_session session, const char *command, const char *input, int terminal) {
    static char bytes[256 << 10];
    ssh_channel channel = ssh_channel_new(session);
    int count, status;
    check(ssh_channel_open_session(channel) == SSH_OK, "open", session);
    if (terminal)
        check(!ssh_channel_request_pty_size(channel, "xterm", 101, 33), "pty", session);
    check(ssh_channel_request_exec(channel, command) == SSH_OK, "exec", session);
    if (input) {
        FILE *file = fopen(input, "rb");
        size_t size;
        while ((size = fread(bytes, 1, sizeof bytes, file)) > 0)
            check(ssh_channel_write(channel, bytes, size) == (int)size, "write", session);
        fclose(file);
        check(ssh_channel_send_eof(channel) == SSH_OK, "eof", session);
    }
    while ((count = ssh_channel_read(channel, bytes, sizeof bytes, 0)) > 0)
        fwrite(bytes, 1, count, stdout);
    check(count == 0, "read", session);
    status = ssh_channel_get_exit_status(channel);
    ssh_channel_close(channel);
    ssh_channel_free(channel);
    return status;
}

/* `name` below `folder`; the caller frees it. */
static char *below(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = malloc(size);
    check(path != NULL, "memory", NULL);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static sftp_session start_sftp(ssh_session session) {
    sftp_session sftp = sftp_new(session);
    check(sftp && !sftp_init(sftp), "sftp", session);
    return sftp;
}

static void put(sftp_session sftp, const char *from, const char *there) {
    static char bytes[32 << 10];
    FILE *source = fopen(from, "rb");
    sftp_file file = sftp_open(sftp, there, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t count;
    check(source && file, there, sftp->session);
    while ((count = fread(bytes, 1, sizeof bytes, source)) > 0)
        check(sftp_write(file, bytes, count) == count, "sftp write", sftp->session);
    check(!sftp_close(file), "sftp close", sftp->session);
    fclose(source);
}

static void get(sftp_session sftp, const char *there, const char *back) {
    static char bytes[32 << 10];
    FILE *target = fopen(back, "wb");
    sftp_file file = sftp_open(sftp, there, O_RDONLY, 0);
    ssize_t count;
    check(target && file, there, sftp->session);
    while ((count = sftp_read(file, bytes, sizeof bytes)) > 0) fwrite(bytes, 1, count, target);
    check(count == 0, "sftp read", sftp->session);
    check(!sftp_close(file), "sftp close", sftp->session);
    fclose(target);
}

static int is_dots(const char *name) { return !strcmp(name, ".") || !strcmp(name, ".."); }

static void put_tree(sftp_session sftp, const char *from, const char *there) {
    DIR *folder = opendir(from);
    struct dirent *entry;
    check(folder && !sftp_mkdir(sftp, there, 0755), there, sftp->session);
    while ((entry = readdir(folder)) != NULL) {
        char *source, *target;
        if (is_dots(entry->d_name)) continue;
        source = below(from, entry->d_name), target = below(there, entry->d_name);
        (entry->d_type == DT_DIR ? put_tree : put)(sftp, source, target);
        free(source), free(target);
    }
    closedir(folder);
}

static void get_tree(sftp_session sftp, const char *there, const char *back) {
    sftp_dir folder = sftp_opendir(sftp, there);
    sftp_attributes entry;
    check(folder && !mkdir(back, 0755), there, sftp->session);
    while ((entry = sftp_readdir(sftp, folder)) != NULL) {
        char *source = below(there, entry->name), *target = below(back, entry->name);
        if (!is_dots(entry->name))
            (entry->type == SSH_FILEXFER_TYPE_DIRECTORY ? get_tree : get)(sftp, source, target);
        free(source), free(target);
        sftp_attributes_free(entry);
    }
    check(sftp_dir_eof(folder), "the end of a folder", sftp->session);
    check(!sftp_closedir(folder), "closedir", sftp->session);
}

static void rename_and_remove(sftp_session sftp, const char *there) {
    static const char *const names[] = {"new 'name'\n", "link\xff"};
    char *name = below(there, names[0]), *link = below(there, names[1]), *large = below(there, "large");
    char *target;
    sftp_attributes found;
    check(!sftp_rename(sftp, large, name), "rename", sftp->session);
    check(!sftp_chmod(sftp, name, 0640), "chmod", sftp->session);
    check((found = sftp_stat(sftp, name)) != NULL, "stat", sftp->session);
    check((found->permissions & 0777) == 0640, "the mode that was set", NULL);
    sftp_attributes_free(found);
    check(!sftp_symlink(sftp, name, link), "symlink", sftp->session);
    check((target = sftp_readlink(sftp, link)) && !strcmp(target, name), "readlink", sftp->session);
    ssh_string_free_char(target);
    check(!sftp_unlink(sftp, link) && !sftp_rename(sftp, name, large), "unlink", sftp->session);
    free(name), free(link), free(large);
}

/* What fails, and how: nothing answered, and this status of SFTP. */
static void fails(sftp_session sftp, int failed, int status, const char *what) {
    if (failed && sftp_get_error(sftp) == status) return;
    fprintf(stderr, "%s: failed %d, status %d\n", what, failed, sftp_get_error(sftp));
    exit(1);
}

static void errors(const char *there, const char *stranger, const char *plain_user) {
    const char *key = key_file;
    sftp_session sftp;
    ssh_session session = login(NULL, NULL, NULL, 0);
    char *none = below(there, "none"), *large = below(there, "large");
    check(run(session, "no-such-program", NULL, 0) == 127, "a program that is not there", NULL);
    sftp = start_sftp(session);
    fails(sftp, !sftp_open(sftp, none, O_RDONLY, 0), SSH_FX_NO_SUCH_FILE, "a missing file");
    fails(sftp, !sftp_opendir(sftp, none), SSH_FX_NO_SUCH_FILE, "a missing folder");
    fails(sftp, sftp_unlink(sftp, none), SSH_FX_NO_SUCH_FILE, "removing what is missing");
    fails(sftp, sftp_rmdir(sftp, there), SSH_FX_FAILURE, "a folder that is not empty");
    fails(sftp, sftp_mkdir(sftp, there, 0700), SSH_FX_FILE_ALREADY_EXISTS, "a folder that is there");
    fails(sftp, !sftp_open(sftp, large, O_WRONLY | O_CREAT | O_EXCL, 0600), SSH_FX_FAILURE,
          "a file that is there");
    sftp_free(sftp);
    leave(session);

    user = plain_user;
    session = login(NULL, NULL, NULL, 0);
    sftp = start_sftp(session);
    fails(sftp, !sftp_open(sftp, "/etc/shadow", O_RDONLY, 0), SSH_FX_PERMISSION_DENIED, "a secret");
    fails(sftp, sftp_mkdir(sftp, "/etc/none", 0700), SSH_FX_PERMISSION_DENIED, "a foreign folder");
    sftp_free(sftp);
    leave(session);

    key_file = stranger;
    session = connected(NULL, NULL, NULL, 0);
    check(authenticate(session) == SSH_AUTH_DENIED, "a stranger's key", session);
    leave(session);
    key_file = key;
    free(none), free(large);
}

int main(int argc, char **argv) {
    static const char *const exchanges[] = {
        "curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384", "ecdh-sha2-nistp521", "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group14-sha256", "diffie-hellman-group16-sha512"};
    static const char *const ciphers[] = {
        "chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com",
        "aes256-ctr", "aes192-ctr", "aes128-ctr"};
    static const char *const host_keys[] = {
        "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "rsa-sha2-512"};
    char *small, *there, *back, *here, *copy, *again, *stranger;
    ssh_session session;
    sftp_session sftp;
    size_t n;
    if (argc != 7) return 2;
    port = atoi(argv[1]);
    user = argv[2];
    key_file = argv[3];
    small = below(argv[5], "small"), there = below(argv[5], "there"), back = below(argv[5], "back");
    here = below(argv[5], "here"), copy = below(argv[5], "copy"), again = below(argv[5], "again");
    stranger = below(argv[5], "stranger");
    for (n = 0; n < 8; n++) {
        session = login(exchanges[n], ciphers[n % 6], host_keys[n % 4], 0);
        if (n < 2) check(run(session, "exit 7", NULL, 0) == 7, "a status", session);
        leave(session);
    }
    session = login(NULL, NULL, NULL, 0);
    check(run(session, "sha256sum", argv[4], 0) == 0, "64 MiB", session);
    check(run(session, "stty size; tty", NULL, 1) == 0, "a terminal", session);
    leave(session);
    session = login("curve25519-sha256", NULL, NULL, 1 << 20);
    sftp = start_sftp(session);
    put(sftp, small, there);
    get(sftp, there, back);
    sftp_free(sftp);
    leave(session);
    session = login(NULL, NULL, NULL, 0);
    sftp = start_sftp(session);
    put_tree(sftp, here, copy);
    rename_and_remove(sftp, copy);
    get_tree(sftp, copy, again);
    sftp_free(sftp);
    leave(session);
    errors(copy, stranger, argv[6]);
    return 0;
}
