#!/usr/bin/env bash
# Make a key and a certificate that let in nobody but you:   certificates.sh [FOLDER]   (~/.musedeep/tls)
# For a scheduler that you start by hand, see scheduler.yaml. Runs that start their own cluster make their own.
set -euo pipefail
FOLDER=${1:-$HOME/.musedeep/tls}
umask 077
mkdir -p "$FOLDER"
openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj /CN=musedeep \
    -keyout "$FOLDER/key.pem" -out "$FOLDER/cert.pem" 2>/dev/null
chmod 600 "$FOLDER/key.pem" "$FOLDER/cert.pem"
echo "made $FOLDER/cert.pem and key.pem, good for 90 days"
