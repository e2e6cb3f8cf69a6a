use libc::{cc_t, speed_t, tcflag_t};

use crate::wire::request::terminal_modes;

const INPUT_SPEED: u8 = 128;
const OUTPUT_SPEED: u8 = 129;
/// A special character with this value is switched off.
const CHARACTER_OFF: u32 = 255;

/// Applies an encoded mode list (RFC 4254 §8) to terminal settings. Opcodes that this system does
/// not know are skipped, as the RFC asks.
pub(super) fn apply_modes(encoded: &[u8], settings: &mut libc::termios) {
    for (opcode, argument) in terminal_modes(encoded) {
        apply(opcode, argument, settings);
    }
}

/// Terminal settings as a mode list (RFC 4254 §8), for a server to make its terminal like ours.
pub fn encode_modes(settings: &libc::termios) -> Vec<u8> {
    let mut list = Vec::new();
    let mut put = |opcode: u8, argument: u32| {
        list.push(opcode);
        list.extend_from_slice(&argument.to_be_bytes());
    };
    for opcode in 0..=u8::MAX {
        let flag = |flag: Option<tcflag_t>, of: tcflag_t| flag.map(|flag| of & flag != 0);
        let on = flag(input_flag(opcode), settings.c_iflag)
            .or_else(|| flag(local_flag(opcode), settings.c_lflag))
            .or_else(|| flag(output_flag(opcode), settings.c_oflag));
        if let Some(value) = character(opcode).and_then(|index| settings.c_cc.get(index)) {
            let off = *value == libc::_POSIX_VDISABLE;
            put(opcode, if off { CHARACTER_OFF } else { u32::from(*value) });
        } else if let Some(on) = on {
            put(opcode, u32::from(on));
        }
    }
    let size = settings.c_cflag & libc::CSIZE;
    put(90, u32::from(size == libc::CS7));
    put(91, u32::from(size == libc::CS8));
    put(92, u32::from(settings.c_cflag & libc::PARENB != 0));
    put(93, u32::from(settings.c_cflag & libc::PARODD != 0));
    list.push(0);
    list
}

fn apply(opcode: u8, argument: u32, settings: &mut libc::termios) {
    if let Some(index) = character(opcode) {
        let value = match argument {
            CHARACTER_OFF => libc::_POSIX_VDISABLE,
            other => cc_t::try_from(other).unwrap_or(libc::_POSIX_VDISABLE),
        };
        if let Some(place) = settings.c_cc.get_mut(index) {
            *place = value;
        }
        return;
    }
    let on = argument != 0;
    if let Some(flag) = input_flag(opcode) {
        set(&mut settings.c_iflag, flag, on);
    } else if let Some(flag) = local_flag(opcode) {
        set(&mut settings.c_lflag, flag, on);
    } else if let Some(flag) = output_flag(opcode) {
        set(&mut settings.c_oflag, flag, on);
    } else {
        apply_control(opcode, argument, settings);
    }
}

/// Character size is a field and not a flag: "not eight bits" says nothing about how many.
fn apply_control(opcode: u8, argument: u32, settings: &mut libc::termios) {
    let on = argument != 0;
    match opcode {
        90 if on => settings.c_cflag = (settings.c_cflag & !libc::CSIZE) | libc::CS7,
        91 if on => settings.c_cflag = (settings.c_cflag & !libc::CSIZE) | libc::CS8,
        92 => set(&mut settings.c_cflag, libc::PARENB, on),
        93 => set(&mut settings.c_cflag, libc::PARODD, on),
        INPUT_SPEED => {
            if let Some(speed) = speed(argument) {
                // SAFETY: plain arithmetic on a structure that we own.
                unsafe { libc::cfsetispeed(settings, speed) };
            }
        }
        OUTPUT_SPEED => {
            if let Some(speed) = speed(argument) {
                // SAFETY: as above.
                unsafe { libc::cfsetospeed(settings, speed) };
            }
        }
        _ => {}
    }
}

fn set(flags: &mut tcflag_t, flag: tcflag_t, on: bool) {
    if on {
        *flags |= flag;
    } else {
        *flags &= !flag;
    }
}

/// The index of a special character. DSUSP (11), FLUSH (15) and STATUS (17) do not exist here.
const fn character(opcode: u8) -> Option<usize> {
    Some(match opcode {
        1 => libc::VINTR,
        2 => libc::VQUIT,
        3 => libc::VERASE,
        4 => libc::VKILL,
        5 => libc::VEOF,
        6 => libc::VEOL,
        7 => libc::VEOL2,
        8 => libc::VSTART,
        9 => libc::VSTOP,
        10 => libc::VSUSP,
        12 => libc::VREPRINT,
        13 => libc::VWERASE,
        14 => libc::VLNEXT,
        16 => libc::VSWTC,
        18 => libc::VDISCARD,
        _ => return None,
    })
}

const fn input_flag(opcode: u8) -> Option<tcflag_t> {
    Some(match opcode {
        30 => libc::IGNPAR,
        31 => libc::PARMRK,
        32 => libc::INPCK,
        33 => libc::ISTRIP,
        34 => libc::INLCR,
        35 => libc::IGNCR,
        36 => libc::ICRNL,
        37 => libc::IUCLC,
        38 => libc::IXON,
        39 => libc::IXANY,
        40 => libc::IXOFF,
        41 => libc::IMAXBEL,
        // RFC 8160 §2.1: input is UTF-8, so that erase removes whole characters.
        42 => libc::IUTF8,
        _ => return None,
    })
}

const fn local_flag(opcode: u8) -> Option<tcflag_t> {
    Some(match opcode {
        50 => libc::ISIG,
        51 => libc::ICANON,
        52 => libc::XCASE,
        53 => libc::ECHO,
        54 => libc::ECHOE,
        55 => libc::ECHOK,
        56 => libc::ECHONL,
        57 => libc::NOFLSH,
        58 => libc::TOSTOP,
        59 => libc::IEXTEN,
        60 => libc::ECHOCTL,
        61 => libc::ECHOKE,
        62 => libc::PENDIN,
        _ => return None,
    })
}

const fn output_flag(opcode: u8) -> Option<tcflag_t> {
    Some(match opcode {
        70 => libc::OPOST,
        71 => libc::OLCUC,
        72 => libc::ONLCR,
        73 => libc::OCRNL,
        74 => libc::ONOCR,
        75 => libc::ONLRET,
        _ => return None,
    })
}

/// Bits a second as the kernel's code for it. Zero would hang the line up and is left out; so is
/// any rate without a code.
const fn speed(bits_a_second: u32) -> Option<speed_t> {
    Some(match bits_a_second {
        50 => libc::B50,
        75 => libc::B75,
        110 => libc::B110,
        134 => libc::B134,
        150 => libc::B150,
        200 => libc::B200,
        300 => libc::B300,
        600 => libc::B600,
        1_200 => libc::B1200,
        1_800 => libc::B1800,
        2_400 => libc::B2400,
        4_800 => libc::B4800,
        9_600 => libc::B9600,
        19_200 => libc::B19200,
        38_400 => libc::B38400,
        57_600 => libc::B57600,
        115_200 => libc::B115200,
        230_400 => libc::B230400,
        460_800 => libc::B460800,
        500_000 => libc::B500000,
        576_000 => libc::B576000,
        921_600 => libc::B921600,
        1_000_000 => libc::B1000000,
        1_152_000 => libc::B1152000,
        1_500_000 => libc::B1500000,
        2_000_000 => libc::B2000000,
        2_500_000 => libc::B2500000,
        3_000_000 => libc::B3000000,
        3_500_000 => libc::B3500000,
        4_000_000 => libc::B4000000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> libc::termios {
        // SAFETY: integers only; all zeroes is a valid value.
        unsafe { std::mem::zeroed() }
    }

    fn encoded(modes: &[(u8, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (opcode, argument) in modes {
            bytes.push(*opcode);
            bytes.extend_from_slice(&argument.to_be_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn applied(modes: &[(u8, u32)], mut to: libc::termios) -> libc::termios {
        apply_modes(&encoded(modes), &mut to);
        to
    }

    #[test]
    fn sets_characters_and_switches_them_off() {
        let after = applied(&[(1, 3), (2, 255), (3, 127), (10, 0x1234)], blank());
        assert_eq!(after.c_cc[libc::VINTR], 3);
        assert_eq!(after.c_cc[libc::VQUIT], libc::_POSIX_VDISABLE);
        assert_eq!(after.c_cc[libc::VERASE], 127);
        assert_eq!(after.c_cc[libc::VSUSP], libc::_POSIX_VDISABLE);
    }

    #[test]
    fn every_flag_of_the_rfc_goes_on_and_off() {
        for opcode in (30..=42).chain(50..=62).chain(70..=75).chain(92..=93) {
            let on = applied(&[(opcode, 1)], blank());
            let words = |t: &libc::termios| [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag];
            let bits: u32 = words(&on).iter().map(|word| word.count_ones()).sum();
            assert_eq!(bits, 1, "opcode {opcode}");
            let off = applied(&[(opcode, 0)], on);
            assert_eq!(words(&off), [0; 4], "opcode {opcode}");
        }
    }

    #[test]
    fn what_is_encoded_is_what_is_applied() {
        let modes: Vec<(u8, u32)> = vec![(1, 3), (3, 255), (36, 1), (53, 1), (70, 1), (91, 1)];
        let here = applied(&modes, blank());
        let mut there = blank();
        there.c_lflag = libc::ISIG | libc::ICANON;
        there.c_cc[libc::VEOF] = 9;
        apply_modes(&encode_modes(&here), &mut there);
        let words = |t: &libc::termios| [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag];
        assert_eq!(words(&there), words(&here));
        assert_eq!(there.c_cc[..libc::VDISCARD], here.c_cc[..libc::VDISCARD]);
    }

    #[test]
    fn character_size_is_a_field() {
        let mut eight = blank();
        eight.c_cflag = libc::CS8;
        assert_eq!(applied(&[(90, 1), (91, 0)], eight).c_cflag & libc::CSIZE, libc::CS7);
        assert_eq!(applied(&[(90, 1), (91, 1)], eight).c_cflag & libc::CSIZE, libc::CS8);
        assert_eq!(applied(&[(90, 0), (91, 0)], eight).c_cflag & libc::CSIZE, libc::CS8);
    }

    #[test]
    fn speeds_have_codes() {
        let speed = |settings: &libc::termios| {
            // SAFETY: reads one field of a structure that we own.
            unsafe { libc::cfgetospeed(settings) }
        };
        let after = applied(&[(128, 38_400), (129, 9_600)], blank());
        assert_eq!(speed(&after), libc::B9600);
        assert_eq!(speed(&applied(&[(128, 12_345), (129, 0)], after)), libc::B9600);
    }

    #[test]
    fn case_90_odd_lists_are_safe() {
        let mut settings = blank();
        for list in [&[][..], &[0], &[160, 1], &[53], &[53, 0, 0, 1], &[99, 0, 0, 0, 1, 200]] {
            apply_modes(list, &mut settings);
        }
        assert_eq!(settings.c_lflag, 0);
        // Nothing is read after the end.
        apply_modes(&[53, 0, 0, 0, 1, 0, 50, 0, 0, 0, 1], &mut settings);
        assert_eq!(settings.c_lflag, libc::ECHO);
    }
}
