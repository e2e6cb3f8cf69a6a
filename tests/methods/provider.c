/*
 * A security key in software, for OpenSSH's clients: SecurityKeyProvider loads it (PROTOCOL.u2f says
 * what a provider answers). The key handle is the private key itself. TEST_SK_FLAGS says what its
 * signatures attest; each counts one more than TEST_SK_COUNTER.
 */
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define API_VERSION 0x000a0000
#define ED25519 1
#define GENERAL_ERROR (-1)

struct enroll_response {
    uint8_t flags;
    uint8_t *public_key;
    size_t public_key_len;
    uint8_t *key_handle;
    size_t key_handle_len;
    uint8_t *signature;
    size_t signature_len;
    uint8_t *attestation_cert;
    size_t attestation_cert_len;
    uint8_t *authdata;
    size_t authdata_len;
};

struct sign_response {
    uint8_t flags;
    uint32_t counter;
    uint8_t *sig_r;
    size_t sig_r_len;
    uint8_t *sig_s;
    size_t sig_s_len;
};

struct option;

uint32_t sk_api_version(void) { return API_VERSION; }

static uint8_t *copy(const void *from, size_t len)
{
    uint8_t *to = malloc(len ? len : 1);
    if (to)
        memcpy(to, from, len);
    return to;
}

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 0) : otherwise;
}

int sk_enroll(uint32_t alg, const uint8_t *challenge, size_t challenge_len, const char *application,
              uint8_t flags, const char *pin, struct option **options, struct enroll_response **out)
{
    (void)challenge, (void)challenge_len, (void)application, (void)pin, (void)options;
    EVP_PKEY *key = alg == ED25519 ? EVP_PKEY_Q_keygen(NULL, NULL, "ED25519")
                                   : EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    struct enroll_response *response = calloc(1, sizeof *response);
    uint8_t point[32], *handle = NULL;
    size_t len = sizeof point;
    if (!key || !response)
        return GENERAL_ERROR;
    response->flags = flags;
    int handle_len = i2d_PrivateKey(key, &handle);
    if (handle_len <= 0)
        return GENERAL_ERROR;
    response->key_handle = handle;
    response->key_handle_len = handle_len;
    if (alg == ED25519) {
        if (EVP_PKEY_get_raw_public_key(key, point, &len) != 1)
            return GENERAL_ERROR;
        response->public_key = copy(point, len);
        response->public_key_len = len;
    } else {
        response->public_key_len = EVP_PKEY_get1_encoded_public_key(key, &response->public_key);
    }
    response->signature = calloc(1, 1);
    response->attestation_cert = calloc(1, 1);
    response->authdata = calloc(1, 1);
    EVP_PKEY_free(key);
    *out = response;
    return 0;
}

/* One INTEGER of a DER signature. */
static const uint8_t *integer(const uint8_t *at, uint8_t **to, size_t *len)
{
    *len = at[1];
    *to = copy(at + 2, *len);
    return at + 2 + *len;
}

int sk_sign(uint32_t alg, const uint8_t *data, size_t data_len, const char *application,
            const uint8_t *handle, size_t handle_len, uint8_t flags, const char *pin,
            struct option **options, struct sign_response **out)
{
    (void)pin, (void)options;
    struct sign_response *response = calloc(1, sizeof *response);
    EVP_PKEY *key = d2i_AutoPrivateKey(NULL, &handle, handle_len);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    uint8_t message[SHA256_DIGEST_LENGTH * 2 + 5], signature[128];
    size_t len = sizeof signature;
    if (!response || !key || !context)
        return GENERAL_ERROR;
    response->flags = number("TEST_SK_FLAGS", flags);
    response->counter = number("TEST_SK_COUNTER", 0) + 1;
    SHA256((const uint8_t *)application, strlen(application), message);
    message[32] = response->flags;
    for (int at = 0; at < 4; at++)
        message[33 + at] = response->counter >> (24 - 8 * at);
    SHA256(data, data_len, message + 37);
    if (EVP_DigestSignInit(context, NULL, alg == ED25519 ? NULL : EVP_sha256(), NULL, key) != 1 ||
        EVP_DigestSign(context, signature, &len, message, sizeof message) != 1)
        return GENERAL_ERROR;
    if (alg == ED25519) {
        response->sig_r = copy(signature, len);
        response->sig_r_len = len;
    } else {
        const uint8_t *second = integer(signature + 2, &response->sig_r, &response->sig_r_len);
        integer(second, &response->sig_s, &response->sig_s_len);
    }
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    *out = response;
    return 0;
}

int sk_load_resident_keys(const char *pin, struct option **options, void ***keys, size_t *count)
{
    (void)pin, (void)options, (void)keys, (void)count;
    return GENERAL_ERROR;
}
