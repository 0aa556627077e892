package deployment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// credential returns the path of a systemd credential that was handed over, or "". (Source: systemd.exec(5), "Credentials".)
func credential(name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// WarnIfExposed tells the log if every account of the machine may read the secret in a file. The group may: it is how secrets are
// handed to a service that does not own them.
func (d *Deployment) WarnIfExposed(what, file string) {
	st, err := os.Stat(file)
	if err == nil && st.Mode().Perm()&0o007 != 0 {
		d.Log.Warn("secret is open to every account of this machine: chmod o= "+file, "secret", what, "file", file, "mode", st.Mode().Perm().String())
	}
}

// accessKeys returns the credentials of the bucket.
func (d *Deployment) accessKeys() (access, secret string, err error) {
	o := d.Config.Objects
	read := func(key, name string) ([]string, error) {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, &mistake{key, fmt.Errorf("read credentials: %w", err)}
		}
		d.WarnIfExposed("credentials of the object store", name)
		return strings.Fields(string(text)), nil
	}
	both, key := o.CredentialsFile, "objects.credentials_file"
	if both == "" && o.AccessKeyFile == "" {
		both, key = credential("narfold.s3"), "systemd credential narfold.s3"
	}
	switch {
	case both != "":
		words, err := read(key, both)
		if err != nil {
			return "", "", err
		}
		if len(words) != 2 {
			return "", "", &mistake{key, fmt.Errorf("%s: want the access key and the secret key, on two lines", both)}
		}
		return words[0], words[1], nil
	case o.AccessKeyFile != "":
		for _, f := range []struct {
			key, name string
			into      *string
		}{{"objects.access_key_file", o.AccessKeyFile, &access}, {"objects.secret_key_file", o.SecretKeyFile, &secret}} {
			words, err := read(f.key, f.name)
			if err != nil {
				return "", "", err
			}
			if len(words) != 1 {
				return "", "", &mistake{f.key, fmt.Errorf("%s: want one key on one line", f.name)}
			}
			*f.into = words[0]
		}
		return access, secret, nil
	}
	access, secret = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if access == "" || secret == "" {
		return "", "", &mistake{"objects.credentials_file", errors.New("want a file with the access key and the secret key of the bucket (or objects.access_key_file and objects.secret_key_file)")}
	}
	return access, secret, nil
}

// exists reports whether there is a file, or cannot tell that there is none.
func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
