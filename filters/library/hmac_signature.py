"""hmac-signature: requests that are signed with a shared secret (RFC 9421), each accepted once."""

import base64
import binascii
import hmac
import time
from typing import Literal, NamedTuple

from filters.library.credentials import HEADER_NAME, check_trusted_header, denied, spellings, take_off
from filters.library.http_signatures import (
    ALGORITHM,
    DERIVED,
    SignatureError,
    SignatureInput,
    Target,
    check_digest,
    parse_bytes,
    parse_inputs,
    sign,
    signature_base,
)
from filters.library.paths import check_paths, excepts_path
from filters.library.replay import FullError, ReplayMemory
from lateen_filter import Counter, FilterConfig, HttpFilter, Properties, Request, Response

SHORTEST_SECRET = 16
MOST_KEYS = 1000
MOST_AGE, MOST_SKEW = 3600, 600
MOST_PER_SECOND = 10_000
MOST_BODY = 16 * 1024 * 1024
LONGEST_NONCE = 128
DIGEST = "content-digest"
refused = Counter("hmac_signature_refused")
replayed = Counter("hmac_signature_replayed")


class Secret(FilterConfig):
    """A secret that a client signs with."""

    id: str
    """The signature's keyid."""
    secret: str
    """Base64 of at least 16 bytes, better 32: `openssl rand -base64 32`."""
    consumer: str = ""
    """The name that is forwarded; else the id."""

    def validate(self) -> None:
        try:
            raw = base64.b64decode(self.secret, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"the secret of {self.id!r} is not base64") from None
        if len(raw) < SHORTEST_SECRET:
            raise ValueError(f"the secret of {self.id!r} is shorter than {SHORTEST_SECRET} bytes")
        for text in (self.id, self.consumer or self.id):
            if not text or not (text.isascii() and text.isprintable()):
                raise ValueError(f"id and consumer {text!r}: printable ASCII, please")


class Accepted(NamedTuple):
    """A signature that is right."""

    consumer: str
    created: int
    token: bytes
    """What makes it this one."""
    signed: SignatureInput


class HmacSignature(HttpFilter):
    """Lets requests pass that carry a valid HTTP Message Signature with hmac-sha256, and tells the upstream whose it is.

    A signature has to cover what `covers` says and, if there is a body, Content-Digest, which has to fit it. It is good for
    `maxAgeSeconds`, and only once in this Envoy: what was accepted is remembered, in a bounded part of the shared data.
    """

    class Config(FilterConfig):
        keys: tuple[Secret, ...]
        covers: tuple[str, ...] = ("@method", "@authority", "@path", "@query")
        """Components that must be signed: derived ones, and headers in lower case. @target-uri and @request-target count for the
        parts they hold."""
        body: Literal["signed", "unsigned"] = "signed"
        """Whether a body must be covered by Content-Digest."""
        longest_body: int = 1024 * 1024
        """Bytes; more is answered with 413. Envoy buffers 1 MiB unless it is told otherwise."""
        max_age_seconds: int = 300
        """Since `created`, which every signature needs."""
        clock_skew_seconds: int = 30
        """How far `created` may be in the future."""
        replay: Literal["nonce", "signature", "off"] = "signature"
        """What is accepted once: a nonce, which every signature then needs, or the signature. Without a nonce, two equal requests
        of one second have the same signature."""
        remember_per_second: int = 200
        """Signed requests there is room for, 12 bytes each; beyond it requests are refused with 503."""
        label: str = ""
        """Which signature counts if a request has several."""
        consumer_header: str = "x-consumer"
        """The header with the consumer's name; whatever the client has sent in it is taken off."""
        except_paths: tuple[str, ...] = ()
        """Paths that need no signature: whole segments, a `*` at the end for any ending."""

        def validate(self) -> None:
            if not 1 <= len(self.keys) <= MOST_KEYS or len({key.id for key in self.keys}) < len(self.keys):
                raise ValueError(f"keys: between 1 and {MOST_KEYS}, each with an id of its own")
            if not self.covers:
                raise ValueError("covers: a signature of nothing fits every request")
            for name in self.covers:
                if name not in DERIVED and (name != name.lower() or not HEADER_NAME.fullmatch(name)):
                    raise ValueError(f"covers: {name!r} is neither one of {', '.join(sorted(DERIVED))} nor a header")
            check_trusted_header("consumerHeader", self.consumer_header)
            check_paths("exceptPaths", self.except_paths)
            for what, value, most in (
                ("maxAgeSeconds", self.max_age_seconds, MOST_AGE),
                ("rememberPerSecond", self.remember_per_second, MOST_PER_SECOND),
                ("longestBody", self.longest_body, MOST_BODY),
            ):
                if not 1 <= value <= most:
                    raise ValueError(f"{what} is {value}: between 1 and {most}")
            if not 0 <= self.clock_skew_seconds <= MOST_SKEW:
                raise ValueError(f"clockSkewSeconds is {self.clock_skew_seconds}: between 0 and {MOST_SKEW}")

    config: Config

    def on_start(self) -> None:
        config = self.config
        self._secrets = {key.id: (base64.b64decode(key.secret), key.consumer or key.id) for key in config.keys}
        self._spellings = spellings(config.consumer_header)
        self._memory = ReplayMemory(
            self.shared,
            f"hmac-signature:{Properties().text('plugin_name') or ''}",
            config.max_age_seconds + config.clock_skew_seconds,
            config.remember_per_second,
        )

    async def on_request(self, request: Request) -> Response | None:
        config = self.config
        take_off(request.headers, self._spellings)
        if excepts_path(request.path, config.except_paths):
            return None
        try:
            accepted = self._accept(request, int(time.time()))
            if config.body == "signed":
                body = await request.body(config.longest_body)
                if DIGEST in accepted.signed.components:
                    check_digest(", ".join(request.headers.get_all(DIGEST)), body)
                elif body:
                    raise SignatureError("the body is not signed: cover content-digest")
            # Last: only what is valid takes up room.
            if config.replay != "off" and not self._memory.add(accepted.created, accepted.token):
                replayed.add()
                raise SignatureError("the request was sent before")
        except SignatureError as error:
            refused.add()
            return denied(401, str(error), {"www-authenticate": "Signature"})
        except FullError:
            refused.add()
            return denied(503, "too many signed requests", {"retry-after": str(self._memory.slot_seconds)})
        request.headers[config.consumer_header] = accepted.consumer
        return None

    def _accept(self, request: Request, now: int) -> Accepted:
        """Check everything but body and replay; SignatureError says what is wrong."""
        config, headers = self.config, request.headers
        label, signed = self._chosen(parse_inputs(", ".join(headers.get_all("signature-input"))))
        given = parse_bytes(", ".join(headers.get_all("signature")), "Signature").get(label)
        secret, consumer = self._secrets.get(signed.text("keyid") or "", (b"", ""))
        if given is None or not secret or signed.parameters.get("alg", ALGORITHM) != ALGORITHM:
            raise SignatureError("no signature with a known keyid and alg hmac-sha256")
        missing = [name for name in config.covers if not signed.covers(name)]
        if missing:
            raise SignatureError(f"not signed: {', '.join(missing)}")
        created = check_times(signed, now, config.max_age_seconds, config.clock_skew_seconds)
        target = Target(request.method, request.scheme, request.authority, request.target)
        if not hmac.compare_digest(sign(secret, signature_base(target, headers.get_all, signed)), given):
            raise SignatureError("the signature is wrong")
        token = given
        if config.replay == "nonce":
            nonce = signed.text("nonce") or ""
            if not 1 <= len(nonce) <= LONGEST_NONCE:
                raise SignatureError(f"a nonce of at most {LONGEST_NONCE} characters is needed")
            token = f"{signed.text('keyid')}\0{nonce}".encode()
        return Accepted(consumer, created, token, signed)

    def _chosen(self, inputs: "dict[str, SignatureInput]") -> tuple[str, SignatureInput]:
        if not inputs:
            raise SignatureError("a signature is needed")
        label = self.config.label or next(iter(inputs))
        if label not in inputs or (not self.config.label and len(inputs) > 1):
            raise SignatureError(f"no signature {label!r}" if label not in inputs else "more than one signature")
        return label, inputs[label]


def check_times(signed: SignatureInput, now: int, max_age: int, skew: int) -> int:
    """`created` of a signature, if it is within its time."""
    created, expires = signed.number("created"), signed.number("expires")
    if created is None:
        raise SignatureError("the signature needs `created`")
    if created > now + skew:
        raise SignatureError("the signature is from the future")
    if created < now - max_age or ("expires" in signed.parameters and (expires is None or expires < now)):
        raise SignatureError("the signature is too old")
    return created
