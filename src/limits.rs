//! Every bound in one place, with its unit in its name and the reason beside it.
//!
//! A number that a peer, a file or the kernel can influence is compared with one of these before it
//! sizes anything. Assertions at the end relate the bounds to one another.

use std::time::Duration;

mod ctl;
mod moving;

pub use ctl::*;
pub use moving::*;

// ---- Buffers -------------------------------------------------------------------------------

/// Room kept in front of bytes that will become a packet: 4 length, 1 padding length, 13 extended
/// data header, 13 SFTP data header, and slack to keep the data aligned.
pub const HEADROOM: u32 = 64;
/// Room kept behind them: up to 19 bytes of padding and a 64-byte tag.
pub const TAILROOM: u32 = 128;
/// Payload bytes in a shared receive buffer; an idle connection owns none.
pub const SMALL_BYTES: u32 = 4096;
/// A shared receive buffer with its margins.
pub const SMALL_SLOT: u32 = HEADROOM + SMALL_BYTES + TAILROOM;
/// One inbound packet of the largest size we accept before bulk, or the outbox of a link.
pub const PACKET_SLOT: u32 = 36 * 1024;
/// Eight packets of 32 KiB of data, laid out as they travel, with slack for a change of cipher.
pub const BULK_SLOT: u32 = 264 * 1024;
/// Packets laid out in one lease; with 16 KiB packets (PuTTY) that is 256 KiB.
pub const FRAMES_MAX: usize = 16;
/// Pieces gathered into one send or write: data of a WRITE of 255 KiB lies in nine packets where it does not
/// begin with one.
pub const GATHER_MAX: usize = 10;

/// Shared receive buffers a shard; more ready sockets than this wait their turn.
pub const SMALL_SLOTS: u32 = 256;
/// Packet leases a shard: outboxes and packets being assembled.
pub const PACKET_SLOTS: u32 = 1024;
/// Bulk leases a shard: 64 MiB of address space, touched only when used.
pub const BULK_SLOTS: u32 = 248;
/// One of so many packet leases is for outboxes alone.
pub const OUTBOX_SHARE: usize = 8;
/// Outboxes of a link that wait to be sent; with more of them its input rests.
pub const OUTBOXES_UNSENT_MAX: u16 = 8;
/// Free slots of a class whose memory stays warm when the pool is trimmed.
pub const TRIM_RESERVE_SLOTS: usize = 4;
/// Slots of a class trimmed in one call, about half a millisecond of page-table work.
pub const TRIM_SLOTS_A_CALL: usize = 32;

/// How long those who find no lease wait before others are asked for such as they hold for nothing
/// (a program that reads nothing), and how often: long against what a
/// write to somebody who reads takes, short against a user's patience.
pub const YIELD_INTERVAL: Duration = Duration::from_millis(200);
/// How long a link may find no lease and get nowhere. Then the link ends that has held some for as
/// long without getting anywhere, or, where there is none, the one that waits: nobody who reads
/// nothing holds a process for ever. Shorter than a login's grace, as long as a key exchange's.
pub const STARVED_TIME_MAX: Duration = Duration::from_secs(60);

// ---- Reactor -------------------------------------------------------------------------------

/// Entries of a ring's submission queue; a turn with more operations enters the kernel once more.
pub const RING_SUBMISSIONS: u32 = 512;
/// Entries of its completion queue; what does not fit waits in the kernel.
pub const RING_COMPLETIONS: u32 = 8192;
/// The same in a process that serves one connection: some kernels count rings by the locked memory of
/// a user (RLIMIT_MEMLOCK), whose processes have hundreds of them then.
pub const RING_SUBMISSIONS_ALONE: u32 = 64;
pub const RING_COMPLETIONS_ALONE: u32 = 512;
/// Operations a shard has in flight: a receive and a send for each link and its busiest channel.
pub const OPS_IN_FLIGHT_MAX: u32 = 4 * LINKS_MAX as u32;
/// Kernel threads of a ring for file reads and writes that block.
pub const RING_WORKERS_BOUNDED: u32 = 4;
/// Kernel threads of a ring for streams that can neither be polled nor read without blocking.
pub const RING_WORKERS_UNBOUNDED: u32 = 16;

/// Bytes of files that a driver reads between two waits: about one large lease, which then lies in the
/// CPU's second cache until it is sealed and sent. With those of all links at once (eight have some
/// 4 MiB under way) each step would fetch them anew.
pub const FILE_READS_A_WAIT_BYTES: u32 = SFTP_DATA_BYTES_MAX;
/// Events that the mio driver takes from the kernel at once; the others follow with the next wait.
pub const EVENTS_A_WAIT: usize = 1024;
/// Entries that a driver's queues have room for from the start; they grow to what is in flight at once.
pub const QUEUE_ENTRIES_FIRST: usize = 64;
/// Connections that it accepts from one listener before it looks after the rest.
pub const ACCEPTS_A_TURN: u32 = 64;
/// Its threads for file reads and writes that could wait for a disk.
pub const FILE_HELPERS: usize = 4;

// ---- Transport (RFC 4253) ------------------------------------------------------------------

/// What a proxy says before that: HAProxy's addresses and everything it can be asked to add are a few
/// hundred bytes.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;
/// Connections of proxies that have not said yet whom they speak for.
pub const PREFACES_MAX: usize = 4096;
/// The same where each has a process of its own (TidegateIsolation per-connection).
pub const PREFACES_APART_MAX: usize = 256;
/// How long they may take to.
pub const PREFACE_TIME_DEFAULT: Duration = Duration::from_secs(3);
pub const PREFACE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long sessions may take to end by themselves when the gateway is told to.
pub const DRAIN_TIME_DEFAULT: Duration = Duration::from_secs(1);
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// RFC 4253 §4.2: the identification line, CR LF included.
pub const IDENT_BYTES_MAX: usize = 255;
/// Lines a server may send before its identification, and their bytes together.
pub const PRE_IDENT_LINES_MAX: u32 = 1024;
pub const PRE_IDENT_BYTES_MAX: u32 = 8 * 1024;
/// RFC 4253 §6.1 asks for 35,000; OpenSSH accepts 256 KiB. The length field's bound.
pub const PACKET_LENGTH_MAX: u32 = 256 * 1024;
/// The same before authentication: nothing legitimate is larger.
pub const PACKET_LENGTH_PREAUTH_MAX: u32 = 35_000;
/// RFC 4253 §6: shortest packet_length with the mandatory four bytes of padding.
pub const PACKET_LENGTH_MIN: u32 = 5;
pub const PADDING_MIN: u32 = 4;
pub const NAME_LIST_BYTES_MAX: u32 = 16 * 1024;
/// One algorithm name (RFC 4250 §4.6.1).
pub const NAME_BYTES_MAX: u32 = 64;
/// The largest key-exchange public value: sntrup761 (1,158) and ML-KEM-768 (1,184) with X25519, a
/// number modulo 8,192 bits (1,025).
pub const KEX_PUBLIC_BYTES_MAX: u32 = 2048;
/// What of a group exchange enters the exchange hash: three sizes, a prime and a generator, of up to
/// 8,192 bits each (RFC 4419 §3).
pub const EXCHANGE_GROUP_BYTES_MAX: u32 = 3 * 4 + 2 * (4 + 1025);
/// A shared secret as it is hashed: a number modulo 8,192 bits, with its length and a sign byte.
pub const EXCHANGE_SECRET_BYTES_MAX: u32 = 4 + 1 + 1024;
/// The identifier of a session is the first exchange hash: SHA-512 at most.
pub const SESSION_ID_BYTES_MAX: u32 = 64;
/// All that an exchange hash is made of, as it travels to whoever signs: two names, two identifications,
/// two KEXINITs, and the values, with the length of each.
pub const EXCHANGE_BYTES_MAX: u32 = 10 * 4
    + 2 * (NAME_BYTES_MAX
        + IDENT_BYTES_MAX as u32
        + PACKET_LENGTH_PREAUTH_MAX
        + KEX_PUBLIC_BYTES_MAX)
    + EXCHANGE_GROUP_BYTES_MAX
    + EXCHANGE_SECRET_BYTES_MAX;
/// Bits of a Diffie-Hellman modulus (RFC 8270 asks for 2048 at least; OpenSSH's figures).
pub const DH_BITS_MIN: u32 = 2048;
pub const DH_BITS_MAX: u32 = 8192;
/// Bits of the group that our client asks for: as strong as the curves it would take instead.
pub const DH_BITS_WANTED: u32 = 3072;
/// Bits of a Diffie-Hellman secret: twice the strength of the strongest cipher.
pub const DH_SECRET_BITS: u32 = 512;
/// A moduli file (moduli(5)); OpenSSH's own has half a megabyte.
pub const MODULI_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Our own KEXINIT, with every name there is.
pub const KEXINIT_BYTES_MAX: usize = 4096;
pub const HOST_KEY_BYTES_MAX: u32 = 8 * 1024;
pub const SIGNATURE_BYTES_MAX: u32 = 4 * 1024;
pub const EXT_INFO_COUNT_MAX: u32 = 64;
pub const EXT_INFO_VALUE_BYTES_MAX: u32 = 4 * 1024;
pub const DISCONNECT_TEXT_BYTES_MAX: u32 = 1024;
/// An RFC 3066 tag; nobody sends one.
pub const LANGUAGE_BYTES_MAX: u32 = 64;
pub const DEBUG_TEXT_BYTES_MAX: u32 = 32 * 1024;
pub const PING_BYTES_MAX: u32 = 1024;
/// Rekey by default after this much in one direction, well under RFC 4344's bound for 16-byte
/// blocks (2^32 blocks, 64 GiB).
pub const REKEY_BYTES_DEFAULT: u64 = 32 << 30;
/// ChaCha20's nonce is the sequence number and OpenSSH rekeys it after 1 GiB; we follow.
pub const REKEY_CHACHA_BYTES_DEFAULT: u64 = 1 << 30;
/// What a configuration may set: less is a key exchange a packet, more passes RFC 4344's bound.
pub const REKEY_BYTES_MIN: u64 = 1024;
pub const REKEY_BYTES_MAX: u64 = 60 << 30;
/// RFC 4344 §3.1: at most 2^31 packets under one set of keys.
pub const REKEY_PACKETS_MAX: u32 = 1 << 31;
/// A key exchange that does not finish in this time ends the connection.
pub const REKEY_TIME_MAX: Duration = Duration::from_secs(60);
/// Rekeys a peer may start back to back, then one a second.
pub const REKEY_BURST: u32 = 10;
/// Moving this much pays for a rekey as a second does. OpenSSH with `RekeyLimit 16K`, or any less,
/// renews its keys before each bulk packet of 32 KiB and now and then before a small one.
pub const REKEY_PAID_BYTES: u64 = 8 * 1024;
/// How long a server that wants to see the client's KEXINIT first waits for it: longer than a round
/// trip around the world, for a client sends it when it has read our identification. One that itself
/// waits for ours (none of those in docs/compatibility.md does) loses this time once a login.
pub const KEXINIT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Packets of this size are sealed to find out how fast a cipher is: so many of them at least, for
/// somebody else may have the CPU meanwhile, and no more than so many or after this time. Three
/// ciphers by two libraries take a millisecond.
pub const CIPHER_TRIAL_BYTES: u32 = 16 * 1024;
pub const CIPHER_TRIALS_MIN: u32 = 5;
pub const CIPHER_TRIALS_MAX: u32 = 12;
pub const CIPHER_TRIAL_TIME: Duration = Duration::from_micros(150);
/// A transport handed to another process: identifications, a host key, extensions and two sets of
/// keys.
pub const TRANSPORT_RECORD_BYTES_MAX: usize = 16 * 1024;
/// Control payloads kept while a key exchange runs.
pub const DEFERRED_BYTES_MAX: u32 = 64 * 1024;
/// Space an outbox must have before input is carved: the largest reply to one packet (a key
/// exchange reply with the largest RSA host key) fits.
pub const OUTBOX_RESERVE: u32 = 12 * 1024;
/// What a connection may have sealed and not sent when it is handed over: the end of a login, with a
/// message of PAM's and what the peer can do. More is sent first.
pub const HAND_OVER_UNSENT_BYTES_MAX: u32 = 4 * 1024;

// ---- Keys ----------------------------------------------------------------------------------

pub const RSA_BITS_MIN: u32 = 2048;
/// The crypto library verifies no larger ones; each doubling also costs eight times the signing.
pub const RSA_BITS_MAX: u32 = 8192;
/// bcrypt rounds in an encrypted key file; each costs about ten milliseconds.
pub const KEY_FILE_ROUNDS_MAX: u32 = 1024;
/// Rounds of PBKDF2 in an encrypted PKCS#8 file: a few seconds of them.
pub const KEY_FILE_PBKDF2_ROUNDS_MAX: u32 = 10_000_000;
/// What we write: OpenSSH's own figure.
pub const KEY_FILE_ROUNDS_DEFAULT: u32 = 24;
pub const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
/// A comment in a key file that we write.
pub const KEY_FILE_COMMENT_BYTES_MAX: usize = 1024;

/// A certificate's blob: it travels where a plain key does.
pub const CERTIFICATE_BYTES_MAX: u32 = HOST_KEY_BYTES_MAX;
/// Names in one certificate: OpenSSH's figure.
pub const CERTIFICATE_PRINCIPALS_MAX: usize = 256;
/// Critical options in one certificate, and as many extensions; OpenSSH knows three and six.
pub const CERTIFICATE_OPTIONS_MAX: usize = 64;
/// Networks in one source-address option; they are walked at every login.
pub const CERTIFICATE_NETWORKS_MAX: usize = 256;
/// How long a certificate made for one login has been valid when it is made, for clocks that are
/// behind ours.
pub const CERTIFICATE_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A file of revoked keys. Lists of a million serial numbers have some megabytes.
pub const REVOKED_KEYS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// One known_hosts file: some hundred thousand lines.
pub const KNOWN_HOSTS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often a file that somebody else changes meanwhile is begun again.
pub const KNOWN_HOSTS_TRIES_MAX: u32 = 3;
/// How often somebody who answers neither yes nor no is asked; ssh's figure.
pub const QUESTIONS_MAX: u32 = 3;
/// One line of it: an RSA key of the largest size and as many names again.
pub const KNOWN_HOSTS_LINE_BYTES_MAX: usize = 16 * 1024;
/// Lines that could not be read and are told about.
pub const KNOWN_HOSTS_SKIPPED_MAX: usize = 8;

/// One message of an agent; OpenSSH's figure.
pub const AGENT_FRAME_BYTES_MAX: u32 = 256 * 1024;
/// Keys an agent may have, and the comment of one; OpenSSH's figure for the first.
pub const AGENT_IDENTITIES_MAX: u32 = 2048;
pub const AGENT_COMMENT_BYTES_MAX: u32 = 4 * 1024;

// ---- Authentication (RFC 4252) -------------------------------------------------------------

pub const USER_BYTES_MAX: u32 = 255;
pub const METHOD_BYTES_MAX: u32 = 64;
pub const PASSWORD_BYTES_MAX: u32 = 1024;
/// A file of passwords or of codes' secrets; a line has about a hundred bytes.
pub const PASSWORD_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// One hash in it; crypt(5) has none of more than 384.
pub const PASSWORD_HASH_BYTES_MAX: usize = 384;
/// What one hash may cost: memory, of which there is as much as threads of that kind of work, and
/// about a second of a CPU. Four times what Debian makes of passwords, and more is no protection.
pub const YESCRYPT_BYTES_MAX: u64 = 64 * 1024 * 1024;
pub const BCRYPT_COST_MAX: u32 = 14;
pub const SHA_CRYPT_ROUNDS_MAX: u64 = 1_000_000;
/// A secret of codes (RFC 4226 §4 asks for 16 bytes and wants 20).
pub const TOTP_SECRET_BYTES_MAX: usize = 128;
/// Less is guessed; apps make at least so much.
pub const TOTP_SECRET_BYTES_MIN: usize = 10;
/// How long a code holds (RFC 6238 §5.2), and how many steps a clock may be ahead or behind.
pub const TOTP_STEP_SECONDS: u64 = 30;
pub const TOTP_STEPS_BESIDE: u64 = 1;
pub const LOGIN_GRACE_DEFAULT: Duration = Duration::from_secs(120);
pub const AUTH_TRIES_DEFAULT: u32 = 6;
/// Requests of any kind before success, key probes included.
pub const AUTH_REQUESTS_MAX: u32 = 64;
/// Bytes a peer may send before it is authenticated.
pub const PREAUTH_BYTES_MAX: u64 = 512 * 1024;
/// A refusal leaves no sooner than this after its request, whoever the user is.
pub const AUTH_FAILURE_DELAY: Duration = Duration::from_millis(5);
pub const AUTHORIZED_KEYS_BYTES_MAX: u64 = 1024 * 1024;
pub const AUTHORIZED_KEYS_LINE_BYTES_MAX: usize = 8 * 1024;
/// Groups of one account that count; the kernel allows 65,536.
pub const ACCOUNT_GROUPS_MAX: usize = 65_536;
/// The pause a service can ask for: how long a channel's EOF waits for the end of a program that has
/// closed its output, and how long data of a file waits for more of it, to be written in one go.
pub const SERVICE_PAUSE: Duration = Duration::from_millis(100);
/// How long credit for a whole piece of a file is waited for while none comes. A client that merely
/// pauses for less gets no short answers; one whose window has shrunk stands still for no longer.
pub const CREDIT_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes a service must be owed before the socket is asked to wake nobody for less. The most it is asked to
/// collect is what the lease has room for.
pub const RECEIVE_MARK_BYTES_MIN: u32 = 32 * 1024;
/// How long bytes may lie in a socket below its receive mark.
pub const RECEIVE_MARK_TIME: Duration = Duration::from_millis(20);
/// While a stream comes so fast that a full packet follows another within this, its reactor sleeps so
/// long at a time, for waking costs more than opening a packet and sealing it again. Short against what a
/// turn may take.
pub const LINGER_TIME: Duration = Duration::from_micros(150);
/// Completions that end such a sleep: with several streams there is enough to do. One that is relayed makes
/// up to four: data received and sent, a window received and sent.
pub const LINGER_COMPLETIONS: u32 = 8;
/// A receive that brings so much is worth a wake-up: there is more in the socket already.
pub const LINGER_BYTES: u32 = 128 * 1024;
/// Bytes of a stream that may come while more of it is at hand before windows and confirmations leave. Well
/// below a window, so that the peer has something to send meanwhile.
pub const STREAM_ANSWERS_BYTES_MAX: u32 = 768 * 1024;
/// How long a reactor does not linger after anything that is no part of a stream: somebody may wait for
/// the answer, and say more.
pub const LINGER_REST: Duration = Duration::from_millis(100);
/// How long a read of a socket's stream keeps its large lease when nothing more comes.
pub const STREAM_LEASE_TIME: Duration = Duration::from_millis(20);
/// How long a link keeps the large lease in which it received bulk when nothing more comes.
pub const RECEIVE_LEASE_TIME: Duration = Duration::from_secs(1);
/// How long what the user database says is believed, and that the account's shell is there: an account that
/// is locked, removed or put into another group is so for logins after this.
pub const DIRECTORY_TIME: Duration = Duration::from_secs(1);
/// Accounts whose entries are remembered at a time.
pub const DIRECTORY_ENTRIES_MAX: usize = 1024;
/// How long a line of a key file that has let somebody in counts again as long as nothing about the file
/// changes.
pub const RECENT_KEY_TIME: Duration = Duration::from_secs(1);
/// Such lines that are remembered at a time, and how long one may be.
pub const RECENT_KEYS_MAX: usize = 1024;
pub const RECENT_KEY_LINE_BYTES_MAX: usize = 4 * 1024;
/// One entry of the shadow database.
pub const SHADOW_ENTRY_BYTES_MAX: usize = 16 * 1024;
pub const BANNER_BYTES_MAX: u32 = 16 * 1024;
/// A banner of ours: it must leave room in an outbox for the answer behind it.
pub const BANNER_SENT_BYTES_MAX: usize = 8 * 1024;
/// The list of methods that may go on.
pub const AUTH_METHODS_BYTES_MAX: u32 = 1024;
/// Chains of AuthenticationMethods that count for one login, and methods of one chain.
pub const AUTH_CHAINS_MAX: usize = 16;
pub const AUTH_CHAIN_METHODS_MAX: usize = 16;
/// Rounds of keyboard-interactive in one attempt: a server may ask again, but not for ever.
pub const AUTH_ROUNDS_MAX: u32 = 32;
/// Questions in one round of keyboard-interactive, and the text of each.
pub const AUTH_PROMPTS_MAX: u32 = 32;
pub const PROMPT_BYTES_MAX: u32 = 4 * 1024;

// ---- Channels (RFC 4254) -------------------------------------------------------------------

/// Channels of one connection, pending opens included.
pub const CHANNELS_MAX: usize = 1024;
/// Forwarded connections of one link, those that are being made or still write out included; sessions
/// count too.
pub const FORWARDS_MAX: usize = 1000;
/// Those of them that are being made.
pub const FORWARDS_PENDING_MAX: usize = 256;
/// How long connecting to one address may take.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// When the next address is tried beside one that has not answered (RFC 8305 §5), and how many are tried
/// at once.
pub const CONNECT_STAGGER_TIME: Duration = Duration::from_millis(250);
pub const CONNECTS_AT_ONCE_MAX: usize = 4;
/// How long somebody who connects to a SOCKS port of a client may take to say where to, and how many
/// may do so at a time: each has a thread.
pub const SOCKS_TIME_MAX: Duration = Duration::from_secs(30);
pub const SOCKS_AT_ONCE_MAX: usize = 64;
/// Hosts on the way to another; a loop of ProxyJump ends here.
pub const JUMPS_MAX: usize = 8;
/// Threads of a client that look names up and connect to paths for it.
pub const CLIENT_WORKERS: usize = 2;
/// How long accepting rests when it fails as such: the process is out of descriptors, and others end meanwhile, or
/// the socket listens no more. Nobody gives a connection up for half a second.
pub const ACCEPT_REST: Duration = Duration::from_millis(500);
/// How often it is told how many connections were turned away.
pub const DROPS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client that ends waits for its server to hear its last words: a round trip around the
/// world, and no longer than somebody waits for a prompt.
pub const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// What a server may say, in messages, while its client waits for something else: for another login, mostly.
pub const CLIENT_NEWS_KEPT_MAX: usize = 1024;
/// A ProxyCommand that closes its end is about to exit: so often its status is looked for, with so
/// long between, before the user is told of the lost connection without it.
pub const PROXY_END_LOOKS: u32 = 20;
pub const PROXY_END_REST: Duration = Duration::from_millis(10);
/// Addresses of a name that are tried.
pub const CONNECT_ADDRESSES_MAX: usize = 8;
/// How long what a closed channel brought may take to be written.
pub const CHANNEL_LINGER_TIME: Duration = Duration::from_secs(3);
/// Places where one connection listens for its client, and sockets of one place.
pub const LISTENERS_OF_LINK_MAX: usize = 128;
pub const LISTENER_SOCKETS_MAX: usize = 8;
/// How often the kernel is asked for a port that is free on all addresses.
pub const PORT_CHOICES_MAX: u32 = 8;
/// Displays are numbered below this; sshd's figure.
pub const X11_DISPLAYS_MAX: u16 = 1000;
/// The name of an X11 authorization protocol and its cookie, in hexadecimal digits.
pub const X11_PROTOCOL_BYTES_MAX: u32 = 64;
pub const X11_COOKIE_BYTES_MAX: u32 = 1024;
/// Connections that wait at such a socket; sshd's figure.
pub const FORWARD_BACKLOG: i32 = 128;
/// Places in one list of what may be forwarded.
pub const PERMITS_MAX: usize = 1024;
/// Sessions of one connection unless MaxSessions says otherwise.
pub const SESSIONS_DEFAULT: u32 = 10;
/// How long a login at a host behind the gateway may take, from the first byte.
pub const UPSTREAM_LOGIN_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a client has to offer its agent, where a login goes on with the keys of that.
pub const AGENT_OFFER_TIME: Duration = Duration::from_secs(20);
/// How long a client's agent may take over a signature, while somebody touches a key or confirms its
/// use. The time of the login at the host stands still meanwhile.
pub const AGENT_SIGN_TIME: Duration = Duration::from_secs(30);
/// How long an agent that `tidegate ssh -A` lends may take to hear for whom: it asks nobody and signs nothing.
pub const AGENT_BIND_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the agent that has host keys may take over a signature: a hardware token takes a second or two.
pub const HOST_KEY_AGENT_TIME_MAX: Duration = Duration::from_secs(10);
/// Keys of an agent that are tried at a host: one less than sshd's MaxAuthTries.
pub const AGENT_KEYS_TRIED_MAX: usize = 5;
/// The largest packet on a session that is accepted before the host has said what it takes: what
/// every server in use does.
pub const AGENT_LOGIN_PACKET_BYTES: u32 = 28 * 1024;
/// A host that could not be reached is tried last for this long.
pub const UPSTREAM_REST_TIME: Duration = Duration::from_secs(10);
/// How long a client has to take the news that its host is gone.
pub const UPSTREAM_NEWS_TIME: Duration = Duration::from_secs(1);
/// A program that is asked about a login: how long it may take, for a worker waits for it, and how much
/// it may say.
pub const PROGRAM_TIME_MAX: Duration = Duration::from_secs(10);
/// PAM's modules: how long they may take for one login, as some ask a server or a telephone. A process
/// that takes longer is killed.
pub const PAM_TIME_MAX: Duration = Duration::from_secs(60);
/// Logins that PAM is asked about at one time, by password, and as many by other methods: each is a
/// process of a few MiB, and wrong passwords take two seconds with Debian's modules. More wait.
pub const PAM_CONVERSATIONS_MAX: usize = 32;
/// The longest password that PAM's modules take (PAM_MAX_RESP_SIZE).
pub const PAM_PASSWORD_BYTES_MAX: usize = 511;
/// Messages of one question of a module: Linux-PAM's own bound.
pub const PAM_MESSAGES_MAX: usize = 32;
/// What they ask in one round, all prompts together, and what they tell before: as much as fits into an
/// outbox. More is cut.
pub const PAM_MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// What modules tell a user beside that, as the text that is shown when a session begins.
pub const PAM_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Of PAM's words in the log.
pub const PAM_REASON_BYTES_MAX: usize = 256;
/// The name of a service.
pub const PAM_SERVICE_BYTES_MAX: usize = 64;
pub const PROGRAM_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long an answer about keys or principals counts, and how many are remembered: a storm of logins asks
/// the same, and a key that is taken back is of no use a moment later. 4 MiB at most.
pub const PROGRAM_ANSWER_TIME: Duration = Duration::from_secs(5);
pub const PROGRAM_ANSWERS_MAX: usize = 64;
/// How long a certificate that is made for one login counts.
pub const UPSTREAM_CERTIFICATE_TIME: Duration = Duration::from_secs(5 * 60);
/// How long a connection that logins share (TidegateUpstreamShare) is kept without any, where nothing
/// else is said.
pub const UPSTREAM_SHARE_KEPT: Duration = Duration::from_secs(60);
/// How old such a connection may be when another login goes on over it: what has changed at the host
/// since, like a key that counts no more, holds for later ones. A certificate counts for less.
pub const UPSTREAM_SHARE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// What a host may send on a channel of such a connection before its client has taken any: less than a
/// link has unsent before its input rests, so that one channel alone does not bring that about.
pub const UPSTREAM_SHARE_WINDOW_BYTES_MAX: u32 = 512 * 1024;
/// What the channels of one client have of it together, in equal parts. What was granted is not taken
/// back, so N channels that were opened one after the other may have ln(N) times as much; and none has
/// less than the minimum.
pub const UPSTREAM_SHARE_CLIENT_BYTES: u32 = 2 * 1024 * 1024;
pub const UPSTREAM_SHARE_WINDOW_BYTES_MIN: u32 = 8 * 1024;
/// Bytes for one client, sealed and unsent or waiting, past which it ends: such a connection is read on
/// for others whatever one takes. 1024 channels may be granted 17 MiB, so what passes this comes in
/// packets of a few bytes, which grow to several times as much.
pub const UPSTREAM_SHARE_UNSENT_BYTES_MAX: u32 = 24 * 1024 * 1024;
/// The name of a host behind the gateway, or of a user there: what fits a line of the configuration, or a
/// program's answer.
pub const UPSTREAM_NAME_BYTES_MAX: u32 = CONFIG_LINE_BYTES_MAX as u32;
/// Hosts of one TidegateUpstream, and lists of them whose state is remembered.
pub const UPSTREAM_HOSTS_MAX: usize = 64;
pub const UPSTREAM_FLEETS_MAX: usize = 1024;
/// Our receive window a channel, and the mark at which it is granted again.
pub const WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// What of a window is used before it is granted again where a socket takes what comes: one part of so
/// many.
pub const WINDOW_GRANT_PART: u32 = 4;
/// What a channel's window may grow to, and what those of one link may grow by, unless the
/// configuration says less: 128 MiB fill 10 Gbit/s over 100 ms.
pub const WINDOW_BYTES_MAX: u32 = 128 * 1024 * 1024;
/// The same toward OpenSSH, from whichever release: since 8.9 it keeps 16 MiB of a channel's input at
/// most, and there is nothing to gain from a window that it cannot fill.
pub const WINDOW_BYTES_OPENSSH_MAX: u32 = 15 * 1024 * 1024;
/// What all windows of a process may grow by together: what is granted and cannot be written at once
/// is memory.
pub const WINDOW_BUDGET_BYTES: u64 = 256 * 1024 * 1024;
/// A grant that is used sooner does not slow the peer: [`WINDOW_BYTES`] in this time are a GiB a second.
pub const WINDOW_TURN_MIN: Duration = Duration::from_millis(2);
/// One that takes so long has come far: a window of so many times the size is tried there at once, for each try
/// takes as long.
pub const WINDOW_TURN_FAR: Duration = Duration::from_millis(50);
pub const WINDOW_FAR_TIMES: u32 = 8;
/// The sum of windows granted on one link, before they grow.
pub const LINK_WINDOW_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// The largest data packet we ask for: OpenSSH's own figure.
pub const CHANNEL_PACKET_BYTES_MAX: u32 = 32 * 1024;
/// The least data packet a peer may insist on; smaller opens are refused.
pub const CHANNEL_PACKET_BYTES_MIN: u32 = 256;
pub const CHANNEL_TYPE_BYTES_MAX: u32 = 64;
pub const REQUEST_NAME_BYTES_MAX: u32 = 64;
/// The longest word that the kernel starts a program with (MAX_ARG_STRLEN, less its NUL).
pub const COMMAND_BYTES_MAX: u32 = 128 * 1024 - 1;
pub const ENV_NAME_BYTES_MAX: u32 = 256;
pub const ENV_VALUE_BYTES_MAX: u32 = COMMAND_BYTES_MAX;
pub const ENV_COUNT_MAX: usize = 128;
/// Names and values of one session's variables that a client sets.
pub const ENV_BYTES_MAX: usize = 256 * 1024;
/// A command, or what else a session is, in a line of the log that waits to be written.
pub const SESSION_TEXT_BYTES_MAX: usize = 32 * 1024;
/// `~/.ssh/environment`: sshd's bound of its lines, and one of its size.
pub const USER_ENVIRONMENT_LINES_MAX: usize = 1000;
pub const USER_ENVIRONMENT_BYTES_MAX: u64 = 256 * 1024;
pub const TERM_BYTES_MAX: u32 = 64;
pub const PTY_MODES_BYTES_MAX: u32 = 1024;
pub const PTY_SIDE_MAX: u32 = 10_000;
pub const SIGNAL_NAME_BYTES_MAX: u32 = 32;
pub const HOST_BYTES_MAX: u32 = 255;
/// The same as a client may ask for it, which is as much as OpenSSH's client can say: a name that is too
/// long costs its channel and not the connection.
pub const ASKED_HOST_BYTES_MAX: u32 = 1025;
/// A Unix socket's path in a forwarding request.
pub const SOCKET_PATH_BYTES_MAX: u32 = 1024;
pub const OPEN_FAILURE_TEXT_BYTES_MAX: u32 = 1024;
/// Packets that the first message to an X server may come in, of some 50 bytes: programs write it at once.
/// Each holds a lease meanwhile.
pub const X11_PIECES_MAX: usize = 8;
/// What is read of a line of `xauth list`; ssh reads half of it.
pub const XAUTH_LINE_BYTES_MAX: u64 = 1024;
/// Global requests of ours awaiting an answer.
pub const GLOBAL_PENDING_MAX: usize = 8;
/// Host keys that a server tells its clients after their login and proves when asked (and that a client
/// of ours hears of): sshd's three kinds, each with the next key, and more.
pub const HOST_KEYS_TOLD_MAX: usize = 16;
/// The same in bytes: the message and the signatures that answer it fit beside others in an outbox.
pub const HOST_KEYS_TOLD_BYTES_MAX: usize = 8 * 1024;
/// Requests for proofs of host keys on one connection: a client asks once, for all it does not know.
/// Each key that is named costs a signature of the process that holds the host keys.
pub const HOST_KEY_PROOFS_MAX: u8 = 2;
/// Requests on one channel that arrived behind a start still under way.
pub const REPLIES_PENDING_MAX: usize = 16;
/// Global requests behind one that is being carried out: a client asks for all its listeners at once.
pub const GLOBALS_HELD_MAX: usize = 512;
/// The bytes of such requests on one connection: two of the longest.
pub const HELD_REQUEST_BYTES_MAX: usize = 2 * RELAYED_REQUEST_BYTES_MAX;
/// A request about a channel that is passed on to another connection: the longest variable and its
/// frame; it fits an empty bulk lease.
pub const RELAYED_REQUEST_BYTES_MAX: usize =
    (ENV_NAME_BYTES_MAX + ENV_VALUE_BYTES_MAX) as usize + REQUEST_FRAME_BYTES_MAX;
/// All of a request about a channel but the strings that may be long.
pub const REQUEST_FRAME_BYTES_MAX: usize = 512;
/// A request that is longer leaves in a lease of its own: any outbox has room for a shorter one.
pub const REQUEST_IN_OUTBOX_BYTES_MAX: usize = 8 * 1024;
/// Packets of another connection that wait for the end of a key exchange before that one's input rests
/// too: each may hold a lease.
pub const RELAYED_WAITING_MAX: usize = 64;
/// Requests of ours on one channel awaiting an answer.
pub const REQUESTS_UNANSWERED_MAX: u32 = 256;
/// The least receive window a channel is given when a link's sum runs short.
pub const WINDOW_BYTES_MIN: u32 = 16 * 1024;

// ---- SFTP ----------------------------------------------------------------------------------

/// OpenSSH's client asks for reads up to this when `limits@openssh.com` allows it.
pub const SFTP_DATA_BYTES_MAX: u32 = 255 * 1024;
/// One SFTP packet: data plus its header.
pub const SFTP_PACKET_BYTES_MAX: u32 = 256 * 1024;
pub const SFTP_HANDLES_MAX: usize = 1024;
pub const SFTP_HANDLE_BYTES_MAX: u32 = 256;
pub const SFTP_PATH_BYTES_MAX: u32 = 4096;
/// One name or long name a server sends us.
pub const SFTP_NAME_BYTES_MAX: u32 = 8192;
/// The message or language tag of a STATUS a server sends us.
pub const SFTP_STATUS_TEXT_BYTES_MAX: u32 = 4096;
/// What one request may have hashed (check-file-handle), and into how many hashes: they fit a reply that
/// every client reads, and no worker is held for long.
pub const SFTP_HASH_BYTES_MAX: u64 = 32 * 1024 * 1024;
pub const SFTP_HASHES_MAX: usize = 512;
/// A request held together in memory: all but a WRITE's data. Two paths and their frame fit; a
/// longer one is skipped and answered BAD_MESSAGE, as a path over PATH_MAX is.
pub const SFTP_REQUEST_BYTES_MAX: u32 = 16 * 1024;
/// What one job of a copy-data request copies, and what it holds in memory while it does.
pub const SFTP_COPY_JOB_BYTES_MAX: u64 = 32 * 1024 * 1024;
pub const SFTP_COPY_STEP_BYTES: usize = 256 * 1024;
/// Accounts of one file, which is read whole, and keys of one account.
pub const ACCOUNTS_MAX: usize = 10_000;
pub const ACCOUNT_KEYS_MAX: usize = 64;
/// Folders of one account that have rights of their own: each is compared with for each path.
pub const ACCOUNT_FOLDERS_MAX: usize = 64;
/// How often a path is looked up again when the kernel is not sure where a `..` led, because somebody
/// renamed something meanwhile; it is sure at once where nobody does.
pub const RESOLVE_TRIES_MAX: u32 = 64;
/// Requests read from the channel and not answered yet.
pub const SFTP_REQUESTS_MAX: usize = 256;
/// Their bytes: paths are kept until their turn comes.
pub const SFTP_WAITING_BYTES_MAX: usize = 64 * 1024;
/// READs of one session under way.
pub const SFTP_READS_MAX: usize = 16;
/// Write operations of one session under way.
pub const SFTP_WRITE_OPS_MAX: usize = 16;
/// Jobs of one session under way that only look.
pub const SFTP_LOOKS_MAX: usize = 4;
/// Chunks of channel data held for one session before small ones are copied together, and what
/// counts as small.
pub const SFTP_SMALL_CHUNKS_MAX: usize = 32;
pub const SFTP_SMALL_CHUNK_BYTES: usize = 2 * 1024;
/// One NAME reply.
pub const SFTP_NAMES_BYTES_MAX: usize = 30 * 1024;
/// What a copy of ours has asked a server for, or sent it, and what has not been answered: at first,
/// and where rate x delay is large. An interrupted copy is not trusted for so many bytes before its
/// end, since answers come in any order.
pub const COPY_IN_FLIGHT_BYTES_START: u32 = 4 * 1024 * 1024;
pub const COPY_IN_FLIGHT_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// The same at a server that can hash blocks and whose windows grow as far: wherever such a copy has
/// holes, the hashes find them.
pub const COPY_IN_FLIGHT_BYTES_DEEP: u32 = WINDOW_BYTES_MAX;
/// A copy that has asked for all it may asks again when it may ask for so much: READs leave together, for
/// each packet of ours wakes the server.
pub const COPY_STEP_BYTES: u32 = 1024 * 1024;
/// What a copy has written before it grants the window again, for the same reason, and not more than a quarter of
/// the window, so that none stands still.
pub const COPY_GRANT_BYTES: u32 = 512 * 1024;
/// What of an interrupted copy is compared before it goes on: all of its end, and blocks before it.
pub const COPY_TAIL_BYTES: u64 = 1024 * 1024;
pub const COPY_SPOT_BYTES: usize = 32 * 1024;
pub const COPY_SPOTS: u64 = 16;
/// Where a server can hash, an interrupted copy is trusted up to the first block of this size whose
/// hash differs.
pub const COPY_HASH_BLOCK_BYTES: u32 = 1024 * 1024;
/// What a command that hashes a file at a server says: a line of 67 bytes for what is before the last
/// [`COPY_IN_FLIGHT_BYTES_MAX`], and one for each block of those. It may take so long, and a
/// second more for each so many bytes.
pub const COPY_SAID_BYTES_MAX: usize = 4096;
pub const COPY_COMMAND_TIME: Duration = Duration::from_secs(30);
pub const COPY_COMMAND_BYTES_A_SECOND: u64 = 32 * 1024 * 1024;
/// Memory through which a copy goes from one server to another.
pub const COPY_SLOT_BYTES: u64 = 4 * 1024 * 1024;
pub const COPY_SLOTS: usize = 8;
/// SFTP sessions that a copy opens on one connection where the way is long, unless it is told otherwise. sshd takes 2 MiB
/// of each before it answers, and gives a connection ten.
pub const COPY_SESSIONS: usize = 4;
pub const COPY_SESSIONS_MAX: usize = 64;
/// A copy that lost a connection tries again after so long at first, twice as long each time, and no
/// longer than this; so often in a row unless `--retries` says otherwise: half a minute in all.
pub const COPY_RETRY_TIME_MIN: Duration = Duration::from_millis(500);
pub const COPY_RETRY_TIME_MAX: Duration = Duration::from_secs(30);
pub const COPY_RETRIES: u32 = 6;
pub const COPY_RETRIES_MAX: u32 = 1000;
/// A server that has been silent so often and so long in a row is gone, for a copy that was told
/// nothing else (ServerAliveInterval).
pub const COPY_ALIVE_TIME: Duration = Duration::from_secs(15);
pub const COPY_ALIVE_COUNT: u32 = 3;
/// How long the key exchange of a later login, and a session's opening, may take.
pub const COPY_LOGIN_TIME: Duration = Duration::from_secs(60);
/// A round trip shorter than this is none to speak of: one session does as well as several.
pub const COPY_NEAR_TIME: Duration = Duration::from_millis(2);
/// Files from this size on are copied over all sessions, in pieces of this size, so many of them at a
/// time on each: while one is confirmed, the other moves.
pub const COPY_SPLIT_BYTES_MIN: u64 = 16 * 1024 * 1024;
pub const COPY_PIECE_BYTES: u64 = 4 * 1024 * 1024;
pub const COPY_PIECES_OF_SESSION: usize = 2;
/// The same of a file with holes on one session: all that may be under way.
pub const COPY_PIECES_OF_ONE: usize = 8;
/// Holes from this size on are not sent; where there are more stretches of data between them, all of the file
/// is.
pub const COPY_HOLE_BYTES_MIN: u64 = 1024 * 1024;
pub const COPY_EXTENTS_MAX: usize = 65_536;
/// Files that are copied at a time: what is small costs round trips, and they are made together.
pub const COPY_FILES_AT_ONCE: usize = 64;
/// Directories inside one another, as with scp.
pub const COPY_DEPTH_MAX: usize = SCP_DEPTH_MAX;
/// Entries of a directory of ours that are read at once.
pub const COPY_ENTRIES_AT_ONCE: usize = 256;
/// How often what a copy has done is shown at a terminal.
pub const COPY_PROGRESS_TIME: Duration = Duration::from_millis(250);
/// READ and WRITE of servers that do not tell their limits: every server takes that much (draft §3).
pub const COPY_DATA_BYTES_PLAIN: u32 = 32 * 1024;
/// Requests of one session of ours that have no answer; a server that reads few of them holds no
/// more memory here.
pub const COPY_REQUESTS_MAX: usize = 2048;
/// Replies gathered before they are written, and requests read ahead, when SFTP runs over plain
/// streams.
pub const SFTP_STREAM_BYTES: usize = 128 * 1024;

// ---- SCP -----------------------------------------------------------------------------------

/// One control line of a client: OpenSSH's own bound.
pub const SCP_LINE_BYTES_MAX: usize = 16 * 1024;
/// Directories inside one another; each holds a descriptor or a line of memory.
pub const SCP_DEPTH_MAX: usize = 256;
/// Names and their bytes that patterns on one command line may become, as a shell bounds them.
pub const SCP_NAMES_MAX: usize = 65_536;
pub const SCP_NAMES_BYTES_MAX: usize = 1024 * 1024;
/// Names of a directory that are read ahead while one is sent.
pub const SCP_ENTRIES_BYTES: usize = 32 * 1024;
/// File reads of one session under way.
pub const SCP_READS_MAX: usize = 8;
/// Write operations of one session under way.
pub const SCP_WRITE_OPS_MAX: usize = 16;
/// Replies and notes to the client that it has not taken yet; nothing more is read while there are
/// more.
pub const SCP_UNSENT_BYTES_MAX: usize = 64 * 1024;

/// What a pipe to or from a program is made to hold once it moves bulk; the system's default is
/// 64 KiB. Pages are taken only for what is in it.
pub const PIPE_BYTES: u32 = 256 * 1024;
/// Channel data up to this length is copied while it waits for a program to read it.
pub const INPUT_COPY_BYTES_MAX: u32 = 1024;

// ---- Shards --------------------------------------------------------------------------------

pub const LINKS_MAX: usize = 16_384;
/// Bytes one link may open or seal before the next one runs.
pub const LINK_TURN_BYTES_MAX: u32 = 512 * 1024;
/// What a packet counts for in that sum at least: a small one costs more than its bytes, and 512 of
/// them are half a millisecond.
pub const LINK_TURN_PACKET_BYTES: u32 = 1024;
/// Unsent bytes of a link after which nothing more is read for it and carving stops.
pub const LINK_UNSENT_BYTES_MAX: u32 = 768 * 1024;
/// With more bulk leases than this in use, a shard has several busy links, which keep one another's
/// turns full: then each reads nothing more past this many unsent bytes. What lies before somebody who
/// types is the sum over all of them.
pub const BULK_SLOTS_BUSY: usize = 8;
pub const LINK_UNSENT_BYTES_BUSY: u32 = BULK_SLOT;
/// Unsent bytes of a link after which it holds no more shared receive buffers for sending.
pub const SHARED_UNSENT_BYTES_MAX: u32 = 64 * 1024;
/// Key exchanges (and other expensive steps) a shard takes in one turn; the rest wait.
pub const HANDSHAKE_STEPS_A_TURN: u32 = 4;
/// Jobs that any worker of a process may do, queued for each kind of workers; a full queue is back-pressure. They
/// are memory from the start: 170 bytes a job and queue, which 1,000 idle logins are to share.
pub const JOBS_MAX: usize = 512;
pub const WORKERS_DEFAULT: usize = 4;
/// The same of a process that serves one connection.
pub const JOBS_ALONE_MAX: usize = 32;
pub const WORKERS_ALONE: usize = 2;
/// How long a key may be looked for before another worker takes the place of the one that does, and before nobody
/// reads the files of that account any more until it is through: they may lie on a server that never answers.
pub const KEY_READ_TIME: Duration = Duration::from_secs(2);
/// Workers whose place another has, at a time.
pub const WORKERS_LATE_MAX: usize = 64;
/// Names of clients looked up at one time (UseDNS): a resolver that does not answer holds up as many
/// logins, and nothing else.
pub const GREETERS: usize = 16;
/// Clients whose names records of logins may have; of others they have the addresses.
pub const CLIENT_NAMES_MAX: usize = 1024;
/// Threads of a process that look names up for forwarded connections: one user has one at a time, and one is left
/// for places to listen at that have no name.
pub const RESOLVERS: usize = 3;
/// The same for logins that go on elsewhere, in root's process: one user has three at a time.
pub const RELAY_RESOLVERS: usize = 16;
/// Log events that the shards of a process may be ahead of the log: a line of each connection that there can be,
/// for all of them may end together. They are memory while they wait, 170 bytes each.
pub const EVENTS_MAX: usize = LINKS_MAX;
/// The same of a process that serves one connection.
pub const EVENTS_ALONE_MAX: usize = 256;
/// One message between a broker and the process of an account.
pub const PARCEL_BYTES_MAX: u32 = 1024 * 1024;
/// Answers to an edge that are told together, and their bytes: nobody waits for more than these.
pub const ANSWERS_HELD_MAX: usize = 16;
pub const ANSWERS_HELD_BYTES_MAX: usize = 64 * 1024;
/// Messages of an edge that are heard before what was answered meanwhile is told.
pub const HEARD_IN_A_ROW_MAX: u32 = 64;
/// Bytes of messages that wait for such a process to read them, some 1000 connections. When it
/// does not read, further connections for it are refused.
pub const PARCEL_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long the process of an account stays without a connection.
pub const DELEGATE_IDLE_TIME: Duration = Duration::from_secs(30);
/// The same once no connection can come to it any more, and behind the only one there is.
pub const RETIRED_IDLE_TIME: Duration = Duration::from_millis(120);
/// How long such a process may take to end once it was told to; then it is killed.
pub const DELEGATE_ENDING_TIME: Duration = Duration::from_secs(5);
/// The same of an edge that ends: what its connections wait for then, root's process may not be there to say.
pub const EDGE_ENDING_TIME: Duration = Duration::from_secs(1);
/// How often an ending process of ours is looked at.
pub const ENDING_CHECK: Duration = Duration::from_millis(20);
/// The same for those that were killed and that nobody waits for, at first and in the end.
pub const REAPER_CHECK_MIN: Duration = Duration::from_millis(2);
pub const REAPER_CHECK_MAX: Duration = Duration::from_secs(1);
/// How long one of them may take before the log is told of it.
pub const REAPER_TIME: Duration = Duration::from_secs(5);
/// Those that have not ended at which none is started any more to ask PAM: more than end within moments
/// of each other when all is well (there are twice [`PAM_CONVERSATIONS_MAX`] that ask).
pub const KILLED_PENDING_MAX: usize = 4 * PAM_CONVERSATIONS_MAX;
/// How long the process in front waits for the serving one to give its port up, which it does as soon
/// as it hears of it.
pub const RELEASE_TIME: Duration = Duration::from_secs(5);
/// The path of a terminal, as /dev/pts/3: the kernel counts below 2^20.
pub const TERMINAL_BYTES_MAX: u32 = 32;
/// Connections of one account that root's process remembers, so that its logins are recorded with where
/// they came from and its clients learn host keys: of one that so many others followed, a login is
/// recorded without its client, and no host key is proved.
pub const SENT_REMEMBERED_MAX: usize = 1024;
/// Authenticated connections waiting for the process of their account.
pub const HAND_OVERS_MAX: usize = 1024;
/// A login has at most so many methods in a chain, and each succeeds once.
pub const PROOFS_MAX: usize = AUTH_CHAIN_METHODS_MAX;
/// Descriptors that an edge may have: its connections, its listeners, its drivers'.
pub const EDGE_FILES_MAX: u64 = STARTUPS_MAX as u64 + 1024;
/// Those of an edge that hears one connection: what it was started with, its driver's, its socket.
pub const EDGE_FILES_SINGLE_MAX: u64 = 32;
/// Edges that wait for a connection each, so that a login does not wait for one to start.
pub const EDGES_SPARE: usize = 4;
/// Those of a relay: each login has a client and a host, one that shares has less, and a recorder where it is
/// recorded.
pub const RELAY_FILES_MAX: u64 = 3 * LINKS_MAX as u64 + 1024;
/// Messages that wait for a relay to read them; one that does not is replaced, and hears of it by its
/// pings sooner.
pub const RELAY_OUTBOX_MAX: usize = 2 * HAND_OVERS_MAX;
/// Logins that are over and may be asked about still, where others wait for the connection that was begun
/// for them: for as long as a login at a host may take, 30 seconds.
pub const RELAY_PAST_MAX: usize = 65_536;
/// Connections to hosts of one login that shares, which needs another for each ten sessions or so, and of
/// one that tries its hosts.
pub const RELAY_WAYS_MAX: u32 = 1024;
/// Connections to hosts that are being made at a time.
pub const DIALS_MAX: usize = 1024;
/// One line about a login that does not get through.
pub const TROUBLE_BYTES_MAX: u32 = 16 * 1024;
/// An edge that has heard so many connections, or any for so long, is replaced: whoever has taken it over
/// unnoticed does not keep it. It is looked for that so often.
pub const EDGE_CONNECTIONS_MAX: u64 = 10_000;
pub const EDGE_TIME_MAX: Duration = Duration::from_secs(600);
pub const EDGE_CHECK: Duration = Duration::from_secs(10);
/// Edges that accept no more and hear the logins that they have begun, for the grace time of those at most.
pub const EDGES_DRAINING_MAX: usize = 4;
/// How often an edge or a signer is asked whether it is there, and how often in vain before another takes
/// its place. An edge's connections have not logged in; they are lost then.
pub const HELPER_PING_INTERVAL: Duration = Duration::from_secs(2);
pub const HELPER_PINGS_MAX: u32 = 3;
/// How long either may take to be ready: it reads what it is told and gives rights up, no more.
pub const HELPER_START_TIME_MAX: Duration = Duration::from_secs(20);
/// How long nothing is tried after one has ended that was not to, so that one that cannot start does not
/// keep the machine busy.
pub const HELPER_REST: Duration = Duration::from_millis(200);
/// The longest rest between two signers that could not start: their files are gone, or the system is out of
/// something.
pub const SIGNER_REST_MAX: Duration = Duration::from_secs(5);
/// Descriptors that a signer may have besides [`HEIRS_MAX`]: its socket, its log, and one key file.
pub const SIGNER_FILES_MAX: u64 = 16;
/// Processes that a signer may have a way to for when root's process is gone: as many as there can be
/// connections, for each of PAM's sessions has a process. The sessions of more end with their keys then.
pub const HEIRS_MAX: usize = LINKS_MAX;
/// Signatures that such a process may owe then, whose connections nobody counts: ten key exchanges for each that
/// a process can have, for as many may a peer start before it has paid.
pub const HEIR_SIGNATURES_OWED_MAX: u64 = 10 * LINKS_MAX as u64;
/// And those it may have in a millisecond: `RekeyLimit 1M` at 4,000 MiB/s.
pub const HEIR_SIGNATURES_A_MILLI: u64 = 4;
/// Host keys of a gateway, as many as fit into what a signer is told first.
pub const SIGNER_KEYS_MAX: usize = 64;
/// Keys that open hosts behind the gateway, as many as fit there too.
pub const UPSTREAM_KEYS_MAX: usize = 256;
/// Signatures that wait for a signer, one of each connection that is there.
pub const SIGNATURES_WAITING_MAX: usize = 2 * LINKS_MAX;
/// RSA signatures that a signer makes and has before it at one time; the others wait with whoever asks,
/// so that quick ones pass them.
pub const SLOW_SIGNATURES_MAX: usize = 16;
/// How often a signature is asked for: once more where the signer ended with it. One that ends a signer
/// twice is not wanted.
pub const SIGNATURE_TRIES_MAX: u32 = 2;
/// The signer's lie or refusal in the log.
pub const REFUSAL_BYTES_MAX: u32 = 256;
/// Signatures that the process of an account may owe for each connection: a peer may start ten key
/// exchanges before it has paid for them, and moves some bytes before the first millisecond is over.
pub const DELEGATE_SIGNATURES_OWED_MAX: u64 = 64;
/// And those it may have for each connection in a millisecond: `RekeyLimit 1M` at 1,000 MiB/s.
pub const DELEGATE_SIGNATURES_A_MILLI: u64 = 1;
/// Signatures of one connection that has not logged in: its first key exchange, and those that a peer
/// may ask for before it has logged in.
pub const SIGNATURES_BEFORE_LOGIN_MAX: u32 = 64;
/// Session identifiers of logins that are remembered, so that what a client signed once is of no use
/// again. They take some 5 MiB, and what lies between them.
pub const SESSIONS_REMEMBERED_MAX: usize = 65_536;
/// The longest line of an edge in the log; what passes it is cut.
pub const EDGE_LINE_BYTES_MAX: usize = 16 * 1024;
/// How long a start waits for a port that another program has, and how often it looks: the processes of
/// a gateway that was killed end within a few milliseconds, and whoever chose a wrong port should hear it.
pub const PORT_WAIT_MAX: Duration = Duration::from_millis(500);
pub const PORT_WAIT_STEP: Duration = Duration::from_millis(10);
/// Unauthenticated connections a process holds.
pub const STARTUPS_MAX: usize = LINKS_MAX;
/// Sources of each family whose penalties another edge is told of, and how many at a time: the last to
/// end. 65,536 are 2 MiB, which is read while it is written.
pub const STANDINGS_MAX: usize = 65_536;
pub const STANDINGS_A_MESSAGE: usize = 4096;
/// Sources whose penalties are remembered, of each family; some 64 bytes each.
pub const PENALTY_SOURCES_MAX: u32 = 1 << 20;

/// Earlier configurations whose connections are still served; then a reload has to wait for some to
/// end. Each has reactors of its own.
pub const GENERATIONS_MAX: usize = 64;
/// Earlier programs that still have sessions after upgrades; then the next upgrade has to wait for one of
/// them to end. Each has reactors and processes of its own.
pub const UPGRADES_DRAINING_MAX: usize = 32;
/// How long a new program may take to check its configuration, which may look names up, and what it may
/// say about that.
pub const UPGRADE_CHECK_TIME_MAX: Duration = Duration::from_secs(20);
pub const UPGRADE_FAULT_BYTES_MAX: u32 = 4096;
/// How long it may take from its start until it accepts: its edge and its signer have
/// [`HELPER_START_TIME_MAX`] each, side by side.
pub const UPGRADE_START_TIME_MAX: Duration = Duration::from_secs(30);
/// The same between its word that it accepts and the old one's that it does not any more.
pub const UPGRADE_ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// The name of a network device: the kernel's own bound (IFNAMSIZ, less the NUL).
pub const DEVICE_NAME_BYTES_MAX: u32 = 15;
/// Listening sockets a service manager may hand over.
pub const LISTENERS_MAX: usize = 256;
/// The audit: bytes of one text of an event (the rest is counted), and its fields.
pub const AUDIT_TEXT_BYTES_MAX: usize = 1024;
pub const AUDIT_FIELDS_MAX: u8 = 16;
/// One line of it: with a header it fits into [`SYSLOG_BYTES_MAX`].
pub const AUDIT_LINE_BYTES_MAX: usize = 7 * 1024;
/// What texts are cut to in a line that would be longer.
pub const AUDIT_CUT_BYTES: usize = 128;
/// Lines that wait to be written; more are lost and counted. Two of each connection that there can be, for all
/// of them may end together. They are memory while they wait, most some 300 bytes.
pub const AUDIT_QUEUE_MAX: usize = 2 * LINKS_MAX;
/// How long the audit may be at some lines before it counts as one that cannot be written
/// (TidegateAuditOnFailure).
pub const AUDIT_STILL_TIME_MAX: Duration = Duration::from_secs(5);
/// Lines that one other process may have written in a second: more than a shard can do file operations,
/// and a process that lies fills a disk no faster.
pub const AUDIT_LINES_A_SECOND_MAX: u32 = 50_000;
/// Lines about a connection that has not logged in: each of its requests, and some more.
pub const AUDIT_LINES_BEFORE_LOGIN_MAX: u32 = AUTH_REQUESTS_MAX + 16;
/// Connections of one process that it may speak of.
pub const AUDIT_LINKS_MAX: usize = LINKS_MAX;
/// Lines of the configuration that a login carries along.
pub const AUDIT_PLACES_MAX: usize = 32;
/// Connections of which it is remembered that the log was told of their user; then it may be told again.
pub const STRANGERS_TOLD_MAX: usize = 1024;
/// Bytes of a session's output that one message to a recorder carries.
pub const TAPE_OUTPUT_BYTES_MAX: usize = 32 * 1024;
/// One message to a recorder.
pub const TAPE_FRAME_BYTES_MAX: usize = TAPE_OUTPUT_BYTES_MAX + 64;
/// Output that waits for a recorder before a session's program is read no more: as much as makes up for
/// some disks' moments, and no more than a screen or two are late.
pub const TAPE_HELD_BYTES_MAX: u32 = 128 * 1024;
/// Messages that wait for a recorder before changes of a terminal's size are left out.
pub const TAPE_FRAMES_MAX: usize = 256;
/// Terminals of one connection whose sizes are kept for recordings: as many as it has channels.
pub const TAPE_SCREENS_MAX: usize = CHANNELS_MAX;
/// Of the command and of a terminal's name as a recording has them.
pub const RECORD_TEXT_BYTES_MAX: u32 = 1024;
/// What a recorder answers.
pub const RECORDER_ANSWER_BYTES_MAX: usize = 1024;
/// How long what is to be shown may wait for its recorder: a disk that spins up takes ten seconds.
pub const RECORDER_TIME_MAX: Duration = Duration::from_secs(30);
/// What is made within so long of each other waits since its first.
pub const TAPE_MOMENT: Duration = Duration::from_secs(1);
/// Connections of one gateway whose sessions are recorded at one time; each has a thread.
pub const RECORDERS_MAX: usize = 4096;
/// The same of one account, so that none takes them all.
pub const RECORDERS_OF_ACCOUNT_MAX: usize = 512;
/// Stack of such a thread.
pub const RECORDER_STACK_BYTES: usize = 128 * 1024;
/// Files of one name that are there already before a recording is given up.
pub const RECORDING_NAMES_MAX: u32 = 100;
/// Characters of a user's name in the name of a recording: a file's name has 255 bytes at most.
pub const RECORDING_USER_CHARS_MAX: usize = 64;
/// One line of a recording: a message's bytes, each six characters at most.
pub const RECORDING_LINE_BYTES_MAX: usize = 6 * TAPE_FRAME_BYTES_MAX + 4096;
/// A control sequence that is replayed; what is longer is none that a terminal is known to take.
pub const REPLAY_SEQUENCE_BYTES_MAX: usize = 64;

/// One line in the system's log, its header included.
pub const SYSLOG_BYTES_MAX: usize = 8 * 1024;

// ---- Configuration -------------------------------------------------------------------------

pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
pub const CONFIG_LINE_BYTES_MAX: usize = 16 * 1024;
pub const CONFIG_INCLUDE_DEPTH_MAX: usize = 16;
/// Files one configuration may consist of; a loop of includes ends here too.
pub const CONFIG_FILES_MAX: usize = 1024;
/// Names that are looked at in a directory, whichever of them an Include takes.
pub const CONFIG_NAMES_MAX: usize = 64 * CONFIG_FILES_MAX;
/// Items of one ChannelTimeout; they are walked for every channel.
pub const CHANNEL_TIMEOUTS_MAX: usize = 64;
/// Errors reported at once.
pub const CONFIG_ERRORS_MAX: usize = 100;

const _: () = assert!(HEADROOM >= 4 + 1 + 13 + 13 && TAILROOM >= 19 + 64);
const _: () = assert!(PACKET_SLOT >= PACKET_LENGTH_PREAUTH_MAX + 4 + 64);
const _: () = assert!(PACKET_SLOT > CHANNEL_PACKET_BYTES_MAX + HEADROOM + TAILROOM);
const _: () = assert!(BULK_SLOT >= 8 * (CHANNEL_PACKET_BYTES_MAX + 18 + 19 + 64));
const _: () = assert!(PACKET_SLOT > 2 * OUTBOX_RESERVE);
const _: () = assert!(OUTBOX_RESERVE > HAND_OVER_UNSENT_BYTES_MAX);
const _: () = assert!(REQUEST_IN_OUTBOX_BYTES_MAX + 1024 < OUTBOX_RESERVE as usize);
// Compression makes noise longer by five bytes in 16 KiB.
const _: () = assert!(
    RELAYED_REQUEST_BYTES_MAX + RELAYED_REQUEST_BYTES_MAX / 8 + 2 * (TAILROOM as usize)
        < BULK_SLOT as usize
);
const _: () = assert!(PACKET_LENGTH_MAX + 4 + 64 <= BULK_SLOT);
const _: () = assert!(SFTP_DATA_BYTES_MAX + 1024 <= SFTP_PACKET_BYTES_MAX);
const _: () = assert!(CHANNEL_PACKET_BYTES_MAX > SFTP_NAMES_BYTES_MAX as u32 + 64);
const _: () =
    assert!(WINDOW_BYTES_MIN as u64 * CHANNELS_MAX as u64 <= LINK_WINDOW_BYTES_MAX as u64);
const _: () = assert!(COPY_IN_FLIGHT_BYTES_START >= 2 * COPY_STEP_BYTES);
const _: () = assert!(STREAM_ANSWERS_BYTES_MAX + BULK_SLOT < WINDOW_BYTES);
const _: () = assert!(WINDOW_BYTES as u64 * 32 <= LINK_WINDOW_BYTES_MAX as u64);

/// Panics that a process takes in [`DEFECTS_TIME`] before it puts new shards in the place of those
/// that met them: what a panic left behind is small, but nobody knows what it is.
pub const DEFECTS_MAX: usize = 3;
/// See [`DEFECTS_MAX`].
pub const DEFECTS_TIME: Duration = Duration::from_secs(60);
