package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"narfold/herder/deployment"
	"narfold/internal/sysd"
)

// sockets are where a herder is asked.
type sockets struct {
	serve []net.Listener
	debug net.Listener // or nil
}

func (s sockets) close() {
	for _, l := range s.serve {
		l.Close()
	}
	if s.debug != nil {
		s.debug.Close()
	}
}

// listen opens the sockets, or takes those that systemd has opened.
func listen(ctx context.Context, cfg deployment.Config, certificate *certificate) (s sockets, err error) {
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.serve, err = sysd.Listeners(); err != nil {
		return s, err
	}
	var lc net.ListenConfig
	if len(s.serve) == 0 {
		for _, address := range cfg.Listen {
			l, err := lc.Listen(ctx, "tcp", address)
			if err != nil {
				return s, listenError(address, err)
			}
			s.serve = append(s.serve, l)
		}
	}
	if certificate != nil {
		for i, l := range s.serve {
			s.serve[i] = tls.NewListener(l, &tls.Config{GetCertificate: certificate.current, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12})
		}
	}
	if cfg.DebugListen != "" {
		if s.debug, err = lc.Listen(ctx, "tcp", cfg.DebugListen); err != nil {
			return s, fmt.Errorf("for profiles and metrics: %w", listenError(cfg.DebugListen, err))
		}
	}
	return s, nil
}

// listenError says what to do where that can be known.
func listenError(address string, err error) error {
	told := fmt.Errorf("listen on %s: %w", address, err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return hint(told, "another address: --listen 127.0.0.1:8081")
	case errors.Is(err, syscall.EACCES):
		return hint(told, "a port from 1024, or a socket of systemd's for it")
	}
	return told
}

// certificate is a certificate from files, which may be read again.
type certificate struct {
	loaded atomic.Pointer[tls.Certificate]
}

// newCertificate returns nil if there is none to load.
func newCertificate(d *deployment.Deployment) (*certificate, error) {
	if d.Config.TLS == (deployment.TLS{}) {
		return nil, nil
	}
	pair, err := loadCertificate(d)
	if err != nil {
		return nil, err
	}
	c := new(certificate)
	c.loaded.Store(pair)
	return c, nil
}

// loadCertificate reads the certificate that the configuration names. Its errors are mistakes in that.
func loadCertificate(d *deployment.Deployment) (*tls.Certificate, error) {
	files := d.Config.TLS
	pair, err := tls.LoadX509KeyPair(files.CertificateFile, files.KeyFile)
	if err != nil {
		return nil, deployment.Mistake("tls.certificate_file", fmt.Errorf("load %s with %s: %w", files.CertificateFile, files.KeyFile, err))
	}
	d.WarnIfExposed("key of the certificate", files.KeyFile)
	if pair.Leaf == nil { // kept since Go 1.23, unless GODEBUG says otherwise
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, deployment.Mistake("tls.certificate_file", fmt.Errorf("read %s: %w", files.CertificateFile, err))
		}
	}
	if until := pair.Leaf.NotAfter; time.Now().After(until) {
		d.Log.Warn("certificate has expired", "file", files.CertificateFile, "until", until)
	} else {
		d.Log.Info("certificate loaded", "file", files.CertificateFile, "until", until)
	}
	return &pair, nil
}

func (c *certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.loaded.Load(), nil
}
