package publish

import (
	"fmt"
	"net/url"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/narinfo"
)

// seal makes the signed narinfo of a task whose nar is known.
func (p *Publisher) seal(t *task) error {
	n := *t.Narinfo
	n.NarHash, n.NarSize = t.narHash, t.narSize
	if len(n.Files) == 0 {
		// The groups are written anew whenever the narinfo is served; a narinfo without any is not one.
		for _, f := range t.forms {
			n.Files = append(n.Files, narinfo.File{URL: narinfo.NarURL(f.compression, n.StorePath.Base), Compression: f.compression, FileHash: f.spooled.sum(), FileSize: f.spooled.size})
		}
		if len(t.forms) == 0 {
			n.Files = []narinfo.File{{URL: narinfo.NarURL(compress.Zstd, n.StorePath.Base), Compression: compress.Zstd, FileSize: narinfo.UnknownSize}}
		}
	}
	sealed, err := p.Keys.Seal(&n, t.Sign)
	if err != nil {
		return err
	}
	if _, err := narinfo.Parse(sealed); err != nil {
		return fmt.Errorf("narinfo that would be served: %w", err)
	}
	t.sealed = sealed
	return nil
}

// publication makes what the catalogue is told of a task whose objects are stored.
func (t *task) publication() catalog.Publication {
	pub := catalog.Publication{Wait: t.Wait, By: t.By}
	pub.Path, pub.NarHash, pub.NarSize, pub.References, pub.Narinfo = t.Narinfo.StorePath, t.narHash, t.narSize, t.Narinfo.References, t.sealed
	for _, f := range t.forms {
		pub.Files = append(pub.Files, catalog.File{Compression: f.compression, Key: f.key, Size: f.spooled.size, SHA256: f.spooled.sum(), Verified: f.verified})
	}
	return pub
}

// checkSignedURLs refuses a narinfo whose URLs are part of what was signed, as Guix wrote them before 2022, if they are not the ones
// that a server answers here: they could not be changed.
func checkSignedURLs(t *task) error {
	if !t.Narinfo.FilesAreSigned() {
		return nil
	}
	for _, f := range t.Narinfo.Files {
		if want := narinfo.NarURL(f.Compression, t.Narinfo.StorePath.Base); f.URL != want && unescaped(f.URL) != unescaped(want) {
			return fmt.Errorf("%w: its signature covers the URL %s, and this server would answer %s; sign it anew where it was built", ErrSignature, f.URL, want)
		}
	}
	return nil
}

func unescaped(u string) string {
	if plain, err := url.PathUnescape(u); err == nil {
		return plain
	}
	return u
}
