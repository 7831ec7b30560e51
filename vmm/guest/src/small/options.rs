//! Kernel configurations: `CONFIG_NAME=VALUE`, and `# CONFIG_NAME is not set` (`Documentation/kbuild/kconfig.rst`).

use std::collections::BTreeMap;

use crate::BuildError;

/// Options by their names without `CONFIG_`. One that is not set has the value `n`.
pub type Options = BTreeMap<String, String>;

/// Reads a configuration; `what` names it in errors. Of an option that is there twice the last line counts, as Kconfig has it.
///
/// # Errors
/// [`BuildError::ConfigurationLine`].
pub fn parse(what: &str, text: &str) -> Result<Options, BuildError> {
    let mut options = Options::new();
    for (line, text) in text.lines().enumerate() {
        match option(text.trim()) {
            Some((name, value)) => _ = options.insert(name.to_owned(), value.to_owned()),
            None if text.trim().is_empty() || text.starts_with('#') => {}
            None => {
                return Err(BuildError::ConfigurationLine { what: what.to_owned(), line: line + 1, text: text.chars().take(80).collect() });
            }
        }
    }
    Ok(options)
}

fn option(line: &str) -> Option<(&str, &str)> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_');
    let unset = line.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set")).map(|name| (name, "n"));
    let set = || line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')).filter(|(_, value)| !value.is_empty());
    unset.or_else(set).filter(|(name, _)| is_name(name))
}

/// The options that are not as asked, each with what it is instead: `CONFIG_TUN=y (is n)`.
pub fn lost(asked: &Options, is: &Options) -> Vec<String> {
    // An option whose dependencies are not met is not in the result at all.
    let actual = |name: &str| is.get(name).map_or("n", String::as_str);
    let differs = asked.iter().filter(|(name, value)| actual(name) != value.as_str());
    differs.map(|(name, value)| format!("CONFIG_{name}={value} (is {})", actual(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_read_and_compared() {
        let asked =
            parse("x", "# a comment\n\nCONFIG_TUN=y\nCONFIG_RTC_CLASS=n\nCONFIG_LOCALVERSION=\"-pod\"\nCONFIG_NR_CPUS=64\n").unwrap();
        assert_eq!(asked.len(), 4);
        let is = parse("y", "CONFIG_TUN=m\n# CONFIG_RTC_CLASS is not set\nCONFIG_LOCALVERSION=\"-pod\"\nCONFIG_64BIT=y\n").unwrap();
        assert_eq!(lost(&asked, &is), ["CONFIG_NR_CPUS=64 (is n)", "CONFIG_TUN=y (is m)"]);
        assert!(lost(&asked, &asked).is_empty());
        let again = parse("z", "CONFIG_A=y\nCONFIG_A=n\n").unwrap();
        assert_eq!(again["A"], "n");
    }

    #[test]
    fn a_line_that_is_no_option_is_named() {
        for line in ["TUN=y", "CONFIG_TUN", "CONFIG_TUN=", "CONFIG_=y", "CONFIG_A B=y"] {
            let error = parse("kernel.config", &format!("CONFIG_A=y\n{line}\n")).unwrap_err().to_string();
            assert_eq!(error, format!("kernel.config, line 2: {line:?}: neither CONFIG_NAME=VALUE nor a comment"));
        }
    }

    /// Every line of ours is an option once, so that none of them can be overruled below it without being seen.
    #[test]
    fn our_own_configuration_says_everything_once() {
        let options = parse("kernel.config", super::super::CONFIGURATION).unwrap();
        let lines = super::super::CONFIGURATION.lines().filter(|line| option(line.trim()).is_some()).count();
        assert_eq!(options.len(), lines);
        for needed in ["PVH", "VIRTIO_MMIO", "VIRTIO_NET", "VIRTIO_FS", "VIRTIO_VSOCKETS", "EROFS_FS", "OVERLAY_FS", "BLK_DEV_INITRD"] {
            assert_eq!(options[needed], "y", "{needed}");
        }
        assert_eq!(options["MODULES"], "n", "there is nobody to load them from");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[#A-Z_= \"a-z0-9\n]{0,100}") {
            let _ = parse("x", &text);
        }

        #[test]
        fn options_come_back(options in proptest::collection::btree_map("[A-Z0-9_]{1,12}", "[a-z0-9\"]{1,8}", 0..10)) {
            let text: String = options.iter().map(|(name, value)| match value.as_str() {
                "n" => format!("# CONFIG_{name} is not set\n"),
                value => format!("CONFIG_{name}={value}\n"),
            }).collect();
            prop_assert_eq!(parse("x", &text).unwrap(), options);
        }
    }
}
