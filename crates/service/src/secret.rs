//! Secrets come as a value, or as the path of a file that holds it.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Reads secrets from pairs of settings such as `SERVICE_TOKEN` and `SERVICE_TOKEN_FILE`.
pub struct Secret;

impl Secret {
    /// The secret called `name` (the variable's name, for messages) from `value`, or from `file`
    /// without the white space around it. An empty value counts as not given, as does an empty
    /// path. The secret itself is in no message.
    ///
    /// # Errors
    /// If none or both are given, the file can't be read, or holds nothing.
    pub fn resolve(
        name: &str,
        value: Option<String>,
        file: Option<PathBuf>,
    ) -> anyhow::Result<String> {
        let value = value.filter(|value| !value.is_empty());
        let file = file.filter(|path| !path.as_os_str().is_empty());
        match (value, file) {
            (Some(value), None) => Ok(value),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(&path).with_context(|| {
                    format!("{name}_FILE: can't read {} as text", path.display())
                })?;
                let secret = text.trim();
                if secret.is_empty() {
                    bail!("{name}_FILE: {} is empty", path.display());
                }
                Ok(secret.to_owned())
            }
            (Some(_), Some(_)) => bail!("both {name} and {name}_FILE are set: leave one out"),
            (None, None) => bail!("{name} is missing: set {name}, or {name}_FILE to its file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_text_without_the_newline() {
        let path = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        std::fs::write(&path, "s3cret\n").unwrap();
        let secret = Secret::resolve("TOKEN", Some(String::new()), Some(path.clone()));
        std::fs::remove_file(path).unwrap();
        assert_eq!(secret.unwrap(), "s3cret");
    }

    #[test]
    fn exactly_one_source_must_be_given() {
        let none = Secret::resolve("TOKEN", None, None).unwrap_err();
        assert!(none.to_string().contains("TOKEN_FILE"), "{none}");
        let both = Secret::resolve("TOKEN", Some("hidden".into()), Some("/x".into())).unwrap_err();
        assert!(!format!("{both:#}").contains("hidden"));
    }
}
