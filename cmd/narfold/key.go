package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"narfold/internal/durable"
	"narfold/internal/guixkey"
	"narfold/internal/nixkey"
)

type keyCommands struct {
	Generate      keyGenerate      `cmd:"" help:"Make a signing key."`
	Public        keyPublic        `cmd:"" help:"Print the public half of a secret key."`
	Verify        keyVerify        `cmd:"" help:"Check that a secret and a public key belong together."`
	AuthorizeHint keyAuthorizeHint `cmd:"" help:"Print what users do to trust a key."`
}

type keyGenerate struct {
	Dialect dialect `required:"" enum:"guix,nix" placeholder:"guix|nix" help:"Whose key: Guix and Nix sign differently, and a store that serves both has two keys."`
	Name    string  `placeholder:"NAME" help:"Name in a Nix key and its signatures, such as cache.example.org-1. Guix keys have none."`
	Secret  string  `required:"" placeholder:"FILE" help:"Where to write the secret key, readable by its owner only."`
	Public  string  `required:"" placeholder:"FILE" help:"Where to write the public key, readable by all."`
}

func (keyGenerate) Help() string {
	return `Makes a signing key and writes it as two files, in the formats of the dialect's own tools: those of "guix archive --generate-key" or of "nix-store --generate-binary-cache-key". Both files are on the disk when the command returns. An existing file is never overwritten, since a lost key cannot be made again: every user would have to trust a new one.

Examples:

    narfold key generate --dialect guix --secret signing-key.sec --public signing-key.pub
    narfold key generate --dialect nix --name cache.example.org-1 --secret nix.sec --public nix.pub`
}

// Validate checks what the flags say together.
func (c *keyGenerate) Validate() error {
	switch {
	case c.Dialect == nixDialect && c.Name == "":
		return usagef("--dialect nix wants --name NAME, the name that the signatures will carry")
	case c.Dialect == guixDialect && c.Name != "":
		return usagef("--name %s: a Guix key has no name", c.Name)
	case c.Secret != "" && filepath.Clean(c.Secret) == filepath.Clean(c.Public):
		return usagef("--secret and --public name the same file")
	}
	if c.Name != "" {
		if err := nixkey.CheckName(c.Name); err != nil {
			return usagef("--name %q: %v", c.Name, err)
		}
	}
	return nil
}

// keyAnswer is the JSON answer of the commands that show a key.
type keyAnswer struct {
	Dialect dialect `json:"dialect"`
	Public  string  `json:"public"`            // hexadecimal for Guix, <name>:<base64> for Nix
	Secret  string  `json:"secret,omitempty"`  // name of the file, of key generate
	File    string  `json:"file,omitempty"`    // text of the public key's file, of key public
	Entry   string  `json:"entry,omitempty"`   // entry for an access list of Guix, of key authorize-hint
	Setting string  `json:"setting,omitempty"` // line for nix.conf, of key authorize-hint
}

func (c *keyGenerate) Run(_ context.Context, inv *invocation) error {
	for _, name := range []string{c.Secret, c.Public} {
		switch _, err := os.Lstat(name); {
		case err == nil:
			return hint(fmt.Errorf("write key %s: %w", name, fs.ErrExist), "another file name; an existing key is never overwritten")
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("write key: %w", err)
		}
	}
	key, err := c.generate()
	if err != nil {
		return fmt.Errorf("generate %s key: %w", c.Dialect, err)
	}
	if err := durable.CreateFile(c.Secret, key.file(), key.mode()); err != nil {
		return fmt.Errorf("generate %s key: %w", c.Dialect, err)
	}
	if err := durable.CreateFile(c.Public, key.public().file(), 0o644); err != nil {
		// Nobody has used the secret yet; left behind it would only stand in the way of the next attempt.
		return fmt.Errorf("generate %s key: %w", c.Dialect, errors.Join(err, durable.Remove(c.Secret)))
	}
	return inv.answer(keyAnswer{Dialect: c.Dialect, Public: key.public().String(), Secret: c.Secret}, func(w io.Writer) {
		fmt.Fprintf(w, "%s key %s\n  secret %s\n  public %s\n", c.Dialect, key.public(), c.Secret, c.Public)
	})
}

func (c *keyGenerate) generate() (secretKey, error) {
	if c.Dialect == guixDialect {
		s, err := guixkey.Generate(rand.Reader)
		return secretKey{guix: s}, err
	}
	s, err := nixkey.Generate(c.Name, rand.Reader)
	return secretKey{nix: s}, err
}

type keyPublic struct {
	Secret string `arg:"" name:"file" help:"File of the secret key, of either dialect."`
}

func (keyPublic) Help() string {
	return `Prints the public half of a secret key as the text of a public key's file. The dialect is told by the file's content. It is how a lost public key is made again.

Examples:

    narfold key public signing-key.sec > signing-key.pub
    narfold key public nix.sec`
}

func (c *keyPublic) Run(_ context.Context, inv *invocation) error {
	s, err := readSecret(c.Secret)
	if err != nil {
		return err
	}
	p := s.public()
	return inv.answer(keyAnswer{Dialect: p.dialect, Public: p.String(), File: string(p.file())}, func(w io.Writer) {
		w.Write(p.file())
		if p.dialect == nixDialect {
			fmt.Fprintln(w)
		}
	})
}

type keyVerify struct {
	Secret string `arg:"" help:"File of the secret key."`
	Public string `arg:"" help:"File of the public key."`
}

func (keyVerify) Help() string {
	return `Checks that a secret key and a public key, of either dialect, belong together, and that the halves inside the secret key do. The exit code is 0 if so and 1 if not.

Examples:

    narfold key verify /etc/guix/signing-key.sec /etc/guix/signing-key.pub`
}

func (c *keyVerify) Run(_ context.Context, inv *invocation) error {
	s, err := readSecret(c.Secret)
	if err != nil {
		return err
	}
	p, err := readPublic(c.Public)
	if err != nil {
		return err
	}
	type verdict struct {
		Match  bool   `json:"match"`
		Secret string `json:"secret"` // the public half of the secret key
		Public string `json:"public"`
	}
	v := verdict{s.public().equal(p), s.public().String(), p.String()}
	err = inv.answer(v, func(w io.Writer) {
		if v.Match {
			fmt.Fprintf(w, "%s and %s belong together: %s key %s\n", c.Secret, c.Public, p.dialect, p)
			return
		}
		fmt.Fprintf(w, "%s and %s do not belong together\n  secret %s key %s\n  public %s key %s\n",
			c.Secret, c.Public, s.public().dialect, s.public(), p.dialect, p)
	})
	if err == nil && !v.Match {
		return exitRefused
	}
	return err
}

type keyAuthorizeHint struct {
	File string `arg:"" help:"File of a public or secret key, of either dialect."`
}

func (keyAuthorizeHint) Help() string {
	return `Prints the lines that an operator gives to users, so that their machines believe the signatures of a key: for Guix a command and the entry that it makes in the access list, for Nix a line for nix.conf. Of a secret key only the public half is shown.

Examples:

    narfold key authorize-hint signing-key.pub
    narfold key authorize-hint --json nix.pub`
}

func (c *keyAuthorizeHint) Run(_ context.Context, inv *invocation) error {
	p, err := readEither(c.File)
	if err != nil {
		return err
	}
	a := keyAnswer{Dialect: p.dialect, Public: p.String()}
	if p.dialect == nixDialect {
		a.Setting = "extra-trusted-public-keys = " + p.String()
		return inv.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "# A line for /etc/nix/nix.conf:\n%s\n", a.Setting)
		})
	}
	if a.Entry, err = aclEntry(p.guix); err != nil {
		return err
	}
	return inv.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "# As root, once on each machine:\nguix archive --authorize <<'EOF'\n%sEOF\n", p.file())
		fmt.Fprintf(w, "# It adds this entry to /etc/guix/acl:\n%s\n", a.Entry)
	})
}
