package source

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"narfold/internal/objstore"
)

// S3Location is where in a bucket a binary cache is. Credentials are not part of it.
type S3Location struct {
	Bucket    string
	Prefix    string // of all keys, without a slash at its end; "" is the whole bucket
	Endpoint  string // http(s)://host[:port]; "" is Amazon's for the region
	Region    string // "" if not given
	PathStyle bool   // the bucket stands in the path instead of the host name
	Profile   string // of a credentials file; "" if not given
}

// ParseS3 reads s3://bucket/prefix?endpoint=HOST&region=REGION&path-style=true. Of Nix's parameters it knows endpoint, region,
// scheme (http or https, for an endpoint without one) and profile. path-style is true by default if there is an endpoint.
func ParseS3(s string) (S3Location, error) {
	bad := func(format string, args ...any) (S3Location, error) {
		return S3Location{}, fmt.Errorf("%w: s3 location: %s", ErrUnknown, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("not a URL")
	}
	switch {
	case u.Scheme != "s3":
		return bad("want s3://bucket/prefix")
	case u.User != nil:
		return bad("has a user; credentials do not belong into it")
	case u.Fragment != "" || u.Opaque != "":
		return bad("want s3://bucket/prefix?parameters")
	case !isBucket(u.Host):
		return bad("%q is not the name of a bucket", clip(u.Host))
	}
	at := S3Location{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	if at.Prefix != "" {
		if _, err := objstore.ParseKey(at.Prefix); err != nil {
			return bad("prefix: %v", err)
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("%v", err)
	}
	scheme, style := "https", ""
	for name, values := range query {
		if len(values) != 1 || values[0] == "" {
			return bad("want one value of %q", clip(name))
		}
		switch v := values[0]; name {
		case "endpoint":
			at.Endpoint = v
		case "region":
			at.Region = v
		case "profile":
			at.Profile = v
		case "path-style":
			style = v
		case "scheme":
			scheme = v
		default:
			return bad("parameter %q is not known", clip(name))
		}
	}
	if scheme != "http" && scheme != "https" {
		return bad("scheme %q: want http or https", clip(scheme))
	}
	if at.Endpoint != "" {
		if !strings.Contains(at.Endpoint, "://") {
			at.Endpoint = scheme + "://" + at.Endpoint
		}
		e, err := url.Parse(at.Endpoint)
		if err != nil || !isWeb(at.Endpoint) || e.Hostname() == "" || e.User != nil || strings.Trim(e.Path, "/") != "" || e.RawQuery != "" || e.Fragment != "" {
			return bad("endpoint %q: want host:port, or an http(s) URL of a host alone", clip(at.Endpoint))
		}
		at.Endpoint = e.Scheme + "://" + e.Host
	}
	at.PathStyle = at.Endpoint != ""
	if style != "" {
		if at.PathStyle, err = strconv.ParseBool(style); err != nil {
			return bad("path-style %q: want true or false", clip(style))
		}
	}
	return at, nil
}

// isBucket checks a bucket's name by the rules of S3, the older ones included.
func isBucket(s string) bool {
	if len(s) < 3 || len(s) > 255 || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || i == len(s)-1 || c != '-' && c != '.' && c != '_') {
			return false
		}
	}
	return true
}

// String returns the location as ParseS3 reads it.
func (l S3Location) String() string {
	s := "s3://" + l.Bucket
	if l.Prefix != "" {
		s += (&url.URL{Path: "/" + l.Prefix}).EscapedPath()
	}
	query := url.Values{}
	for name, v := range map[string]string{"endpoint": l.Endpoint, "region": l.Region, "profile": l.Profile} {
		if v != "" {
			query.Set(name, v)
		}
	}
	if l.PathStyle != (l.Endpoint != "") {
		query.Set("path-style", strconv.FormatBool(l.PathStyle))
	}
	if len(query) > 0 {
		s += "?" + query.Encode()
	}
	return s
}

// clip keeps hostile text from filling an error message.
func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}
