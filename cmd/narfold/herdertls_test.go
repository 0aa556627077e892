package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certify writes a certificate for the loopback address that signs itself, with its key, and returns it.
func certify(t *testing.T, certFile, keyFile string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "herder"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	spit(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	spit(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// overTLS asks on a new connection, trusting one certificate, and returns the protocol, the status and the body.
func overTLS(t *testing.T, url string, trusted *x509.Certificate, protocols http.Protocols) (proto string, status int, body string, err error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(trusted)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: &protocols}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		return "", 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.Proto, res.StatusCode, string(b), err
}

func TestHTTPSWithHTTP2AndARenewedCertificate(t *testing.T) {
	var one, two http.Protocols
	one.SetHTTP1(true)
	two.SetHTTP2(true)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	file, _ := configFile(t, "[tls]\ncertificate_file = '"+cert+"'\nkey_file = '"+key+"'\n")
	cache, p := cacheOf(t, "secretly", "told")
	must(t, nil, "import", "--config", file, cache)
	first := certify(t, cert, key, 1)
	s := startService(t, serviceOptions{args: []string{"--config", file}})
	url := "https://" + s.address("serving", 0)
	works := func(when string, by *x509.Certificate) {
		t.Helper()
		for proto, protocols := range map[string]http.Protocols{"HTTP/1.1": one, "HTTP/2.0": two} {
			for path, want := range map[string]string{"/healthz": "ok\n", "/nar/zstd/" + string(p.path.Base): string(p.nar)} {
				if got, status, body, err := overTLS(t, url+path, by, protocols); err != nil || got != proto || status != http.StatusOK || body != want {
					t.Errorf("%s, %s by %s: %s %d %.100q, %v", when, path, proto, got, status, body, err)
				}
			}
		}
	}
	works("at the start", first)
	wait(t, "a warning about the key, which everybody may read", func() bool {
		return strings.Contains(s.said.String(), "secret is open to every account of this machine") && strings.Contains(s.said.String(), key)
	})
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	second := certify(t, cert, key, 2)
	works("before the reload", first)
	s.reload()
	works("after the reload", second)
	if _, _, _, err := overTLS(t, url+"/healthz", first, two); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("the old certificate is trusted: %v", err)
	}
	spit(t, cert, []byte("half a certificate"))
	if said := s.reload(); !strings.Contains(said, "configuration was not reloaded") || !strings.Contains(said, "tls.certificate_file: load "+cert) {
		t.Errorf("of a broken certificate it said %s", said)
	}
	works("after a reload that failed", second)
	if res, err := http.Get("http://" + s.address("serving", 0) + "/healthz"); err == nil {
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			t.Error("it serves plain HTTP too")
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestACertificateTakesEffectOnlyIfAllElseDoes(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := certify(t, cert, key, 1)
	tlsTable := "[tls]\ncertificate_file = '" + cert + "'\nkey_file = '" + key + "'\n"
	file, state := configFile(t, tlsTable)
	s := startService(t, serviceOptions{args: []string{"--config", file}})
	certify(t, cert, key, 2)
	spit(t, file, []byte("state = '"+state+"'\n[serve]\nprefer = 'zip'\n"+tlsTable))
	if said := s.reload(); !strings.Contains(said, "serve.prefer: ") {
		t.Errorf("of a mistake it said %s", said)
	}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	if _, status, _, err := overTLS(t, "https://"+s.address("serving", 0)+"/healthz", first, protocols); err != nil || status != http.StatusOK {
		t.Errorf("with the first certificate: %d, %v", status, err)
	}
}
