package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
	"narfold/internal/nixkey"
	"narfold/internal/sexp"
)

type narinfoVerify struct {
	Key    []string `sep:"none" placeholder:"FILE" help:"Believe the signatures of this key, public or secret, of either dialect. May be given several times."`
	ACL    string   `name:"acl" placeholder:"FILE" help:"Believe the keys of this access list of Guix, such as /etc/guix/acl."`
	Intact bool     `help:"Be content with narinfos that are as their signer wrote them, whoever that was. Only Guix's signatures can tell without a key."`
	Files  []string `arg:"" name:"file" help:"Narinfos of either dialect; - is standard input."`
}

func (narinfoVerify) Help() string {
	return `Tells for each narinfo which keys signed it and whether one of them is among the keys given. One such signature is enough, as it is for the clients. The exit code is 0 if every narinfo has one and 1 if not.

Verdicts of a signature: "trusted" is valid and by a key given. "intact" is valid by the key that stands inside a Guix signature, which anybody could have put there. "unknown" is by a key that was not given and cannot be checked, as Nix's signatures carry only a name. "invalid" is wrong: the narinfo or the signature was changed. A narinfo is trusted if one of its signatures is, else intact, else invalid, else unknown. Without signatures it is "unsigned", and if clients would refuse to read it "malformed". Without --key and --acl nothing is trusted; --intact makes the exit code 0 for what is intact.

Examples:

    narfold narinfo verify --acl /etc/guix/acl *.narinfo
    narfold narinfo verify --key cache.pub --json HASH.narinfo
    curl -s https://cache.example.org/HASH.narinfo | narfold narinfo verify --key cache.pub -`
}

// verdict is what is known of a signature or a narinfo, as the answers name it.
type verdict string

const (
	trusted    verdict = "trusted"
	intact     verdict = "intact"
	unknown    verdict = "unknown"
	invalid    verdict = "invalid"
	unsigned   verdict = "unsigned"
	malformed  verdict = "malformed"
	unreadable verdict = "unreadable"
)

// signatureVerdict is one signature in the JSON answer.
type signatureVerdict struct {
	Dialect dialect `json:"dialect"`
	Key     string  `json:"key"`            // Guix: the point in hexadecimal; Nix: the name
	Host    string  `json:"host,omitempty"` // Guix: free text of the signer
	Verdict verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"` // why it is invalid
}

// narinfoVerdict is one file in the JSON answer.
type narinfoVerdict struct {
	File       string             `json:"file"`
	StorePath  string             `json:"store_path,omitempty"`
	Verdict    verdict            `json:"verdict"`
	Reason     string             `json:"reason,omitempty"` // why it could not be read
	Signatures []signatureVerdict `json:"signatures"`
}

func (c *narinfoVerify) Run(ctx context.Context, inv *invocation) error {
	trust, err := c.trust()
	if err != nil {
		return err
	}
	answers := []narinfoVerdict{}
	good := true
	for _, name := range c.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		v := narinfoVerdict{File: name, Signatures: []signatureVerdict{}}
		if raw, err := readNarinfo(inv, name); err != nil {
			if ctx.Err() != nil {
				return err
			}
			v.Verdict, v.Reason = unreadable, err.Error()
		} else {
			trust.judge(raw, &v)
		}
		good = good && (v.Verdict == trusted || c.Intact && v.Verdict == intact)
		answers = append(answers, v)
	}
	err = inv.answer(answers, func(w io.Writer) {
		for _, v := range answers {
			v.print(w)
		}
	})
	if err == nil && !good {
		return exitRefused
	}
	return err
}

// narinfoTrust is the keys that a user believes.
type narinfoTrust struct {
	guix *guixkey.ACL
	nix  nixkey.Trust
}

func (c *narinfoVerify) trust() (narinfoTrust, error) {
	var guix []*guixkey.PublicKey
	var nix []nixkey.PublicKey
	for _, name := range c.Key {
		p, err := readEither(name)
		if err != nil {
			return narinfoTrust{}, err
		}
		if p.guix != nil {
			guix = append(guix, p.guix)
		} else {
			nix = append(nix, p.nix)
		}
	}
	if c.ACL != "" {
		text, err := readSmall(c.ACL, sexp.MaxSize)
		if err != nil {
			return narinfoTrust{}, fmt.Errorf("read access list: %w", err)
		}
		list, err := guixkey.ParseACL(text)
		if err != nil {
			return narinfoTrust{}, fmt.Errorf("read access list %s: %w", c.ACL, err)
		}
		guix = append(guix, list.Keys()...)
	}
	return narinfoTrust{guixkey.Authorize(guix...), nixkey.TrustIn(nix...)}, nil
}

// judge fills v with what the text of a narinfo and its signatures tell.
func (t narinfoTrust) judge(raw []byte, v *narinfoVerdict) {
	n, err := narinfo.Parse(raw)
	if err != nil {
		v.Verdict, v.Reason = malformed, err.Error()
		return
	}
	v.StorePath = n.StorePath.String()
	if n.Signature != "" {
		v.Signatures = append(v.Signatures, t.judgeGuix(n))
	}
	fingerprint := n.Fingerprint()
	for _, sig := range n.Sigs {
		v.Signatures = append(v.Signatures, t.judgeNix(fingerprint, sig))
	}
	v.Verdict = unsigned
	for _, better := range []verdict{unknown, invalid, intact, trusted} {
		for _, s := range v.Signatures {
			if s.Verdict == better {
				v.Verdict = better
			}
		}
	}
}

func (t narinfoTrust) judgeGuix(n *narinfo.Narinfo) signatureVerdict {
	v := signatureVerdict{Dialect: guixDialect}
	signer, host, err := claimedSigner(n.Signature)
	v.Host = host
	if err == nil {
		v.Key = signer.String()
		if _, err = guixkey.Verify(n.Raw, t.guix); errors.Is(err, guixkey.ErrUnauthorized) {
			if _, err = guixkey.Verify(n.Raw, guixkey.Authorize(signer)); err == nil {
				v.Verdict = intact
				return v
			}
		}
	}
	if err != nil {
		v.Verdict, v.Reason = invalid, err.Error()
		return v
	}
	v.Verdict = trusted
	return v
}

func (t narinfoTrust) judgeNix(fingerprint, sig string) signatureVerdict {
	name, _, _ := strings.Cut(sig, ":")
	v := signatureVerdict{Dialect: nixDialect, Key: name}
	switch _, err := t.nix.Verify(fingerprint, []string{sig}); {
	case err == nil:
		v.Verdict = trusted
	case errors.Is(err, nixkey.ErrUnknownKey):
		v.Verdict = unknown
	default:
		v.Verdict, v.Reason = invalid, err.Error()
	}
	return v
}

// print writes the verdict for people: a line on the narinfo and one on each signature.
func (v *narinfoVerdict) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %s", v.File, v.Verdict)
	if v.Verdict == intact {
		fmt.Fprint(w, ", by a key that is not trusted")
	}
	if v.Reason != "" {
		fmt.Fprintf(w, ": %s", v.Reason)
	}
	fmt.Fprintln(w)
	for _, s := range v.Signatures {
		var b bytes.Buffer
		fmt.Fprintf(&b, "  %s key %s", s.Dialect, s.Key)
		if s.Host != "" {
			fmt.Fprintf(&b, " (host %s)", s.Host)
		}
		fmt.Fprintf(&b, ": %s", s.Verdict)
		if s.Reason != "" {
			fmt.Fprintf(&b, ": %s", s.Reason)
		}
		fmt.Fprintln(w, b.String())
	}
}
