package narinfo

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/storepath"
)

// CheckURL says what is wrong with s as the URL of a narinfo, or nil. Good are absolute http and https URLs with a host and
// without a user, and relative ones: a path below the server's root, with or without a leading slash and a query. Neither may have
// a "." or ".." segment, also when escaped, a backslash, a fragment, blanks, or anything but printable ASCII.
func CheckURL(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	if len(s) > MaxURL {
		return fmt.Errorf("longer than %d bytes", MaxURL)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '#' || c == '"' || c == '<' || c == '>' {
			return fmt.Errorf("%q has the character %q", clip(s), c)
		}
	}
	path := s
	if i := strings.IndexAny(s, ":/?"); i >= 0 && s[i] == ':' {
		u, err := url.Parse(s)
		if err != nil {
			return fmt.Errorf("%q: %w", clip(s), err)
		}
		if u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("%q: scheme %q: want http or https", clip(s), u.Scheme)
		}
		if u.Hostname() == "" || u.User != nil {
			return fmt.Errorf("%q: want a host and no user", clip(s))
		}
		path = strings.TrimPrefix(u.EscapedPath(), "/")
	} else {
		path, _, _ = strings.Cut(path, "?")
		path = strings.TrimPrefix(path, "/")
		if path == "" || path[0] == '/' {
			return fmt.Errorf("%q: want a path", clip(s))
		}
	}
	return checkSegments(s, path)
}

func checkSegments(s, path string) error {
	if strings.IndexByte(path, '%') >= 0 {
		plain, err := url.PathUnescape(path)
		if err != nil {
			return fmt.Errorf("%q: %w", clip(s), err)
		}
		path = plain
	}
	if !clean(path) || strings.IndexByte(path, '\\') >= 0 {
		return fmt.Errorf("%q hides a control character or a backslash", clip(s))
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return fmt.Errorf("%q has a dot segment", clip(s))
		}
	}
	return nil
}

// Resolve returns where f is, given the root URL of the server that served the narinfo. A relative URL is appended to the root,
// as Guix and Nix do, and not resolved against it: a root with a path keeps it, with or without a slash at its end.
func (f File) Resolve(root string) string {
	if strings.HasPrefix(f.URL, "http://") || strings.HasPrefix(f.URL, "https://") {
		return f.URL
	}
	return strings.TrimSuffix(root, "/") + "/" + strings.TrimPrefix(f.URL, "/")
}

// EscapeBase returns the name of an item as guix publish writes it in a URL: "+", "?" and "=" percent-encoded, since they mean
// something else to some servers. All other characters of a base name stand for themselves.
func EscapeBase(b storepath.Base) string {
	if !strings.ContainsAny(string(b), "+?=") {
		return string(b)
	}
	return escaper.Replace(string(b))
}

var escaper = strings.NewReplacer("+", "%2B", "?", "%3F", "=", "%3D")

// NarURL returns the relative URL under which Guix clients also look for a nar by themselves: nar/<compression>/<item>, and
// nar/<item> for an uncompressed one.
func NarURL(m compress.Method, b storepath.Base) string {
	if m == compress.None {
		return "nar/" + EscapeBase(b)
	}
	return "nar/" + string(m) + "/" + EscapeBase(b)
}
