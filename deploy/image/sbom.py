#!/usr/bin/env python3
"""What an image holds, as SPDX 2.3 in JSON: our programs with their hashes, and
the Debian packages whose libraries they load."""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import re
import sys
import urllib.parse

OURS = "SPDXRef-sparseserve"


def fields(record):
    """Of a record of dpkg; continuation lines are left out."""
    return dict(line.split(": ", 1) for line in record.splitlines()
                if re.match(r"[A-Za-z-]+: ", line))


def package_id(name):
    return "SPDXRef-deb-" + re.sub(r"[^A-Za-z0-9.-]", "-", name)


def debian_package(record):
    found = fields(record)
    name, version = found["Package"], found["Version"]
    location = (f"pkg:deb/debian/{urllib.parse.quote(name)}"
                f"@{urllib.parse.quote(version, safe='')}"
                f"?arch={found['Architecture']}")
    # "name (version)" where the source's version is another.
    source = found.get("Source", name).split()[0]
    return {
        "SPDXID": package_id(name),
        "name": name,
        "versionInfo": version,
        "supplier": "Organization: Debian",
        "originator": "Person: " + re.sub(r" <(.+)>$", r" (\1)",
                                          found["Maintainer"]),
        "sourceInfo": f"built from Debian's source package {source}",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        # In /usr/share/doc/NAME/copyright of the image, in prose.
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": location,
        }],
    }


def python_package(metadata):
    """Of a wheel, whose METADATA says what it is."""
    found = fields(metadata)
    name, version = found["Name"], found["Version"]
    return {
        "SPDXID": "SPDXRef-pypi-" + re.sub(r"[^A-Za-z0-9.-]", "-", name),
        "name": name,
        "versionInfo": version,
        "supplier": "Organization: NVIDIA",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": f"pkg:pypi/{name}@{version}",
        }],
    }


def program(root, path):
    content = path.read_bytes()
    name = "/" + str(path.relative_to(root))
    return {
        "SPDXID": "SPDXRef-file" + re.sub(r"[^A-Za-z0-9.-]", "-", name),
        "fileName": "." + name,
        "fileTypes": ["BINARY"],
        # SPDX 2.3 demands the first.
        "checksums": [
            {"algorithm": "SHA1",
             "checksumValue": hashlib.sha1(content).hexdigest()},
            {"algorithm": "SHA256",
             "checksumValue": hashlib.sha256(content).hexdigest()},
        ],
        "licenseConcluded": "Apache-2.0",
        "licenseInfoInFiles": ["NOASSERTION"],
        "copyrightText": "NOASSERTION",
    }


def created():
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = (datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
              if epoch else datetime.datetime.now(datetime.timezone.utc))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def document(root, version):
    records = sorted((root / "var/lib/dpkg/status.d").iterdir())
    programs = sorted((root / "usr/local/bin").iterdir())
    if not records or not programs:
        sys.exit(f"sbom.py: {root} is not the root of an image of ours")
    packages = [debian_package(record.read_text()) for record in records]
    cublas = root / "usr/share/doc/cublas/METADATA"
    if cublas.exists():
        packages.append(python_package(cublas.read_text()))
    files = [program(root, path) for path in programs]
    # The package verification code of SPDX 2.3, section 7.9.
    code = hashlib.sha1("".join(sorted(
        file["checksums"][0]["checksumValue"]
        for file in files)).encode()).hexdigest()
    ours = {
        "SPDXID": OURS,
        "name": "sparseserve",
        "versionInfo": version,
        "supplier": "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": True,
        "packageVerificationCode": {"packageVerificationCodeValue": code},
        "licenseConcluded": "Apache-2.0",
        "licenseDeclared": "Apache-2.0",
        "licenseInfoFromFiles": ["NOASSERTION"],
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
    }

    def relationship(element, kind, related):
        return {"spdxElementId": element, "relationshipType": kind,
                "relatedSpdxElement": related}

    content = json.dumps([packages, files, version], sort_keys=True).encode()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"sparseserve-{version}",
        # The same for the same content, as it must be.
        "documentNamespace": "https://spdx.org/spdxdocs/sparseserve-"
                             + hashlib.sha256(content).hexdigest(),
        "creationInfo": {"created": created(),
                         "creators": ["Tool: sparseserve-sbom"]},
        "packages": [ours] + packages,
        "files": files,
        "relationships":
            [relationship("SPDXRef-DOCUMENT", "DESCRIBES", OURS)]
            + [relationship(OURS, "CONTAINS", file["SPDXID"])
               for file in files]
            + [relationship(OURS, "CONTAINS", package["SPDXID"])
               for package in packages],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=pathlib.Path,
                        help="directory with the image's files, as buildah "
                             "mount prints it")
    parser.add_argument("--version", required=True, help="of the image")
    arguments = parser.parse_args()
    json.dump(document(arguments.root, arguments.version), sys.stdout,
              indent=1)
    print()


if __name__ == "__main__":
    main()
