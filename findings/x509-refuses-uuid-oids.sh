#!/bin/sh
# Go's crypto/x509 (go1.26.8) cannot read a certificate with an extension whose OID is made
# of a UUID.
#
# ITU-T X.667 gives everybody identifiers without a registration: 2.25 and a UUID as one
# number of up to 128 bits. Such an OID in an X.509 extension is valid DER.
#
# Seen: Python's cryptography 46.0.3 makes such a certificate, and reads it back with the
# extension. Go's x509.ParseCertificate refuses the whole certificate, also when the
# extension is not critical, with an error about the extension's OID: it keeps each number
# of an OID in 31 bits. The same certificate with an arc of small numbers is read.
#
# Why it matters: Go's TLS, and with it libp2p's, reads a peer's certificate so. A network that
# puts something of its own into its peers' certificates cannot name it by a UUID. shoal's private swarms put the membership into the
# subject key identifier, which every certificate may have, and need no OID of their own.
#
# Needs Go and Python 3 with pip; fails if the behaviour is another.
set -eu
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check cryptography==46.0.3
cat > make.py <<'PY'
import datetime, uuid
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

def certificate(oid, path):
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = datetime.datetime(2026, 1, 1)
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x04\x03abc")
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=365 * 50))
            .add_extension(extension, critical=False).sign(key, None))
    raw = made.public_bytes(serialization.Encoding.DER)
    open(path, "wb").write(raw)
    again = x509.load_der_x509_certificate(raw)
    print("python", path, [e.oid.dotted_string == oid for e in again.extensions])

certificate("2.25.%d" % uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8").int, "uuid.der")
certificate("1.3.6.1.4.1.53594.1.99", "small.der")
PY
cat > main.go <<'GO'
package main

import (
	"crypto/x509"
	"fmt"
	"os"
)

func main() {
	for _, path := range os.Args[1:] {
		raw, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			fmt.Println("go", path, err)
			continue
		}
		fmt.Println("go", path, len(c.Extensions), "extension")
	}
}
GO
env/bin/python make.py > got
GOTOOLCHAIN=go1.26.8 go run main.go uuid.der small.der >> got
cat got
cat > want <<'TXT'
python uuid.der [True]
python small.der [True]
go uuid.der x509: malformed extension OID field
go small.der 1 extension
TXT
diff want got && echo "as described"
