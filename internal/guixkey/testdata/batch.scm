;;; Keys, signatures and verdicts of libgcrypt, for many narinfos in one process.
;;; Reads commands, one a line, words separated by one blank, texts as hexadecimal digits of their UTF-8; answers one line each.
;;;
;;;   make  HOST BODY             a new key: PUBLIC-KEY-FILE SECRET-KEY-FILE SIGNATURE-VALUE
;;;   sign  PUB SEC HOST BODY     SIGNATURE-VALUE
;;;   check PUB BODY BASE64       valid | invalid
;;;   acl   PUB...                ACCESS-LIST-FILE
(use-modules (gcrypt pk-crypto) (gcrypt hash) (gcrypt base16) (gcrypt base64)
             (rnrs bytevectors) (ice-9 rdelim) (ice-9 match))

(define (text digits) (utf8->string (base16-string->bytevector digits)))
(define (digits text) (bytevector->base16-string (string->utf8 text)))
(define (print . words) (display (string-join words " ")) (newline))

(define (signature pub sec body)
  (let* ((data (string->canonical-sexp
                (string-append "(data (flags rfc6979) (hash \"sha256\" #"
                               (bytevector->base16-string (sha256 (string->utf8 body))) "#))")))
         (parts (map canonical-sexp->string (list data (sign data sec) pub))))
    (canonical-sexp->string
     (string->canonical-sexp (string-append "(signature " (string-join parts " ") ")")))))

(define (value host pub sec body)
  (string-append "1;" host ";" (base64-encode (string->utf8 (signature pub sec body)))))

(define (valid? pub body packed)
  (let* ((sig  (string->canonical-sexp (utf8->string (base64-decode packed))))
         (data (find-sexp-token sig 'data)))
    (and (equal? (canonical-sexp->sexp pub)
                 (canonical-sexp->sexp (find-sexp-token sig 'public-key)))
         (equal? (hash-data->bytevector data) (sha256 (string->utf8 body)))
         (verify (find-sexp-token sig 'sig-val) data (find-sexp-token sig 'public-key)))))

(define key-parameters (string->canonical-sexp "(genkey (ecdsa (curve Ed25519) (flags rfc6979)))"))

(let loop ((line (read-line)))
  (unless (eof-object? line)
    (match (string-split line #\space)
      (("make" host body)
       (let* ((pair (generate-key key-parameters))
              (pub  (find-sexp-token pair 'public-key))
              (sec  (find-sexp-token pair 'private-key)))
         (print (digits (canonical-sexp->string pub)) (digits (canonical-sexp->string sec))
                (value host pub sec (text body)))))
      (("sign" pub sec host body)
       (print (value host (string->canonical-sexp (text pub)) (string->canonical-sexp (text sec)) (text body))))
      (("check" pub body packed)
       (print (if (catch #t
                    (lambda () (valid? (string->canonical-sexp (text pub)) (text body) packed))
                    (lambda _ #f))
                  "valid" "invalid")))
      (("acl" pubs ...)
       (print (digits (canonical-sexp->string
                       (sexp->canonical-sexp
                        `(acl ,@(map (lambda (pub)
                                       `(entry ,(canonical-sexp->sexp (string->canonical-sexp (text pub)))
                                               (tag (guix import))))
                                     pubs))))))))
    (loop (read-line))))
