package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
)

type narinfoSign struct {
	Key  string `required:"" placeholder:"FILE" help:"Secret key, of either dialect."`
	Host string `placeholder:"NAME" help:"Host name inside a Guix signature, which nobody checks. Default: this machine's."`
}

func (narinfoSign) Help() string {
	return `Reads a narinfo from standard input and writes it to standard output with a signature by the key added, which its dialect tells.

For Guix the signed lines come first, in the order of guix publish (StorePath, NarHash, NarSize, References, Deriver), then the Signature, then every other line as it was; so URLs may change later without signing anew. A narinfo has one Signature: a second one is refused. For Nix a Sig line is added and every other byte stays; there may be several. What would not be accepted by clients is neither read nor written.

Examples:

    narfold narinfo sign --key /etc/guix/signing-key.sec < unsigned > signed
    narfold narinfo sign --key nix.sec < unsigned > signed`
}

var errSigned = errors.New("it has a Signature already")

func (c *narinfoSign) Run(_ context.Context, inv *invocation) error {
	key, err := readSecret(c.Key)
	if err != nil {
		return err
	}
	if key.nix != nil && c.Host != "" {
		return usagef("--host %s: a Nix signature has no host name", c.Host)
	}
	raw, err := readNarinfo(inv, "-")
	if err != nil {
		return err
	}
	n, err := narinfo.Parse(raw)
	if err != nil {
		return fmt.Errorf("read narinfo: %w", err)
	}
	signed, err := c.sign(n, key)
	if err != nil {
		return fmt.Errorf("sign narinfo of %s: %w", n.StorePath, err)
	}
	if _, err := inv.stdout.Write(signed); err != nil {
		return fmt.Errorf("write narinfo: %w", err)
	}
	return nil
}

func (c *narinfoSign) sign(n *narinfo.Narinfo, key secretKey) ([]byte, error) {
	if key.nix != nil {
		signed := narinfo.WithFiles(n, nil, []string{key.nix.Sign(n.Fingerprint())})
		return signed, checkSigned(signed, key)
	}
	if n.Signature != "" {
		return nil, hint(errSigned, "remove its Signature line first")
	}
	host := c.Host
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			return nil, hint(err, "--host NAME")
		}
	}
	signed, err := withSignature(n, key.guix, host)
	if err != nil {
		return nil, err
	}
	return signed, checkSigned(signed, key)
}

// withSignature returns the text of a narinfo with its signed lines first, in Guix's order and spelling, and then a Signature and
// all other lines in their order. Guix's clients match the repeated fields by position, which stays.
func withSignature(n *narinfo.Narinfo, key *guixkey.Secret, host string) ([]byte, error) {
	body := narinfo.GuixBody(n)
	value, err := key.Sign(body, host)
	if err != nil {
		return nil, err
	}
	out := fmt.Appendf(body, "Signature: %s\n", value)
	for line := range bytes.Lines(n.Raw) {
		switch name, _, _ := bytes.Cut(line, []byte(":")); string(name) {
		case "StorePath", "NarHash", "NarSize", "References", "Deriver":
		default:
			out = append(out, line...)
		}
	}
	return out, nil
}

// checkSigned reads a signed narinfo as a client does.
func checkSigned(signed []byte, key secretKey) error {
	n, err := narinfo.Parse(signed)
	if err != nil {
		return fmt.Errorf("clients would refuse the result: %w", err)
	}
	if key.guix != nil {
		_, err = guixkey.Verify(signed, guixkey.Authorize(key.guix.Public()))
		return err
	}
	_, err = nixkey.TrustIn(key.nix.Public()).Verify(n.Fingerprint(), n.Sigs)
	return err
}
