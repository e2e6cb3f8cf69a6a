/* libssh as a client: every key exchange and cipher it has, a command's status, data through
 * standard input, a terminal, files by SFTP while keys change. Compiled and run by
 * tests/clients.rs:
 *
 *   libssh PORT USER KEY INPUT FILE THERE BACK
 *
 * INPUT goes through `sha256sum`, whose output is printed; FILE by SFTP to THERE and from there to
 * BACK. */
#include <fcntl.h>
#include <libssh/libssh.h>
#include <libssh/sftp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned port;
static const char *user, *key_file;

static void check(int good, const char *what, void *at) {
    if (good) return;
    fprintf(stderr, "%s: %s\n", what, at ? ssh_get_error(at) : "");
    exit(1);
}

/* What a login is to use, and nothing else is offered; null is libssh's own choice. */
static ssh_session login(const char *exchange, const char *cipher, const char *host_key,
                         uint64_t rekey_bytes) {
    const char *shown;
    ssh_session session = ssh_new();
    ssh_key key = NULL;
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
    check(!ssh_pki_import_privkey_file(key_file, NULL, NULL, NULL, &key), "key", NULL);
    check(ssh_userauth_publickey(session, NULL, key) == SSH_AUTH_SUCCESS, "login", session);
    ssh_key_free(key);
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

static void put_and_get(ssh_session session, const char *from, const char *there, const char *back) {
    static char bytes[32 << 10];
    sftp_session sftp = sftp_new(session);
    FILE *source = fopen(from, "rb"), *target = fopen(back, "wb");
    sftp_file file;
    ssize_t count;
    check(sftp && !sftp_init(sftp), "sftp", session);
    check((file = sftp_open(sftp, there, O_WRONLY | O_CREAT | O_TRUNC, 0600)) != NULL, "create", session);
    while ((count = fread(bytes, 1, sizeof bytes, source)) > 0)
        check(sftp_write(file, bytes, count) == count, "sftp write", session);
    check(!sftp_close(file), "sftp close", session);
    check((file = sftp_open(sftp, there, O_RDONLY, 0)) != NULL, "sftp open", session);
    while ((count = sftp_read(file, bytes, sizeof bytes)) > 0) fwrite(bytes, 1, count, target);
    check(count == 0, "sftp read", session);
    check(!sftp_close(file), "sftp close", session);
    check(!sftp_open(sftp, "/none/such", O_RDONLY, 0), "a file that is not there", NULL);
    check(sftp_get_error(sftp) == SSH_FX_NO_SUCH_FILE, "no such file", session);
    sftp_free(sftp);
    fclose(source);
    fclose(target);
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
    ssh_session session;
    size_t n;
    if (argc != 8) return 2;
    port = atoi(argv[1]);
    user = argv[2];
    key_file = argv[3];
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
    put_and_get(session, argv[5], argv[6], argv[7]);
    leave(session);
    return 0;
}
