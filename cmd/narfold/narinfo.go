package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
	"narfold/internal/sexp"
)

type narinfoCommands struct {
	Verify narinfoVerify `cmd:"" help:"Check the signatures of narinfos."`
	Sign   narinfoSign   `cmd:"" help:"Sign a narinfo."`
}

// readNarinfo reads the text of a narinfo from a file, or from standard input if its name is "-". No larger text is one.
func readNarinfo(inv *invocation, name string) ([]byte, error) {
	if name != "-" {
		return readSmall(name, narinfo.MaxSize)
	}
	text, err := io.ReadAll(io.LimitReader(inv.stdin, narinfo.MaxSize+1))
	if err == nil && len(text) > narinfo.MaxSize {
		err = fmt.Errorf("%w: more than %d bytes", errTooLarge, narinfo.MaxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return text, nil
}

// claimedSigner returns the key inside the value of a Guix Signature field, which says that it made the signature, and the host
// name beside it. Whoever wrote the narinfo chose both.
func claimedSigner(value string) (*guixkey.PublicKey, string, error) {
	parts := strings.Split(value, ";")
	if len(parts) != 3 {
		return nil, "", guixkey.ErrBadField
	}
	host := parts[1]
	text, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, host, fmt.Errorf("%w: %w", guixkey.ErrCorrupt, err)
	}
	signature, err := sexp.Parse(text)
	if err != nil {
		return nil, host, fmt.Errorf("%w: %w", guixkey.ErrCorrupt, err)
	}
	for _, item := range signature.Items() {
		if _, ok := item.Tail("public-key"); ok {
			key, err := guixkey.ParsePublic([]byte(item.String()))
			return key, host, err
		}
	}
	return nil, host, fmt.Errorf("%w: no public key in it", guixkey.ErrCorrupt)
}
