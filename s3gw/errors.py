"""One table from errors to S3 codes, and the XML document of an error.

Handlers raise ``S3Error`` for what only the protocol knows (a bad digest, a bad range); what the core raises is looked
up here by class. Messages go to the client, so they name what was asked for and never what is inside the pool.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NamedTuple

from siltstone import errors
from siltstone.s3gw.xml import Element, XmlInvalid, render

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f]")


class Code(NamedTuple):
    """An S3 error code: its HTTP status and what it says unless the raiser knows better."""

    status: int
    message: str


CODES: dict[str, Code] = {
    "AccessControlListNotSupported": Code(400, "The bucket does not allow ACLs"),
    "AccessDenied": Code(403, "Access Denied"),
    "AccessForbidden": Code(403, "CORSResponse: This CORS request is not allowed."),
    "AuthorizationHeaderMalformed": Code(400, "The authorization header is malformed."),
    "AuthorizationQueryParametersError": Code(400, "The query parameters of the signature are malformed."),
    "BadDigest": Code(400, "The checksum that you sent does not match the bytes that arrived."),
    "BadRequest": Code(400, "The request is not valid HTTP."),
    "BucketAlreadyExists": Code(409, "The bucket name is taken. Please select a different name and try again."),
    "BucketAlreadyOwnedByYou": Code(409, "The bucket exists already, and you own it."),
    "BucketNotEmpty": Code(409, "The bucket you tried to delete is not empty."),
    "ConditionalRequestConflict": Code(409, "A conflicting operation ran at the same time; try again."),
    "EntityTooLarge": Code(400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": Code(400, "Your proposed upload is smaller than the minimum allowed object size."),
    "IllegalLocationConstraintException": Code(400, "The location constraint is not the region of this endpoint."),
    "IncompleteBody": Code(400, "You did not provide the number of bytes specified by the Content-Length header."),
    "InternalError": Code(500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": Code(403, "The access key Id you provided does not exist in our records."),
    "InvalidArgument": Code(400, "Invalid argument."),
    "InvalidBucketState": Code(409, "The request is not valid for the current state of the bucket."),
    "InvalidBucketName": Code(400, "The specified bucket is not valid."),
    "InvalidDigest": Code(400, "The Content-MD5 you specified is not valid."),
    "InvalidPart": Code(
        400,
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified "
        "entity tag may not match the part's entity tag.",
    ),
    "InvalidPartNumber": Code(416, "The requested partnumber is not satisfiable."),
    "InvalidPartOrder": Code(400, "The list of parts was not in ascending order."),
    "InvalidRange": Code(416, "The requested range is not satisfiable."),
    "InvalidRequest": Code(400, "Invalid request."),
    "InvalidRetentionPeriod": Code(400, "The retention period specified is not valid."),
    "InvalidTag": Code(400, "The tag provided was not a valid tag."),
    "InvalidStorageClass": Code(400, "The storage class you specified is not valid."),
    "InvalidTargetBucketForLogging": Code(400, "The target bucket for logging does not exist."),
    "InvalidToken": Code(400, "The provided token is malformed or otherwise invalid."),
    "InvalidURI": Code(400, "Couldn't parse the specified URI."),
    "KeyTooLongError": Code(400, "Your key is too long."),
    "InvalidBucketAclWithObjectOwnership": Code(
        400, "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
    ),
    "InvalidEncryptionAlgorithmError": Code(400, "The encryption request you specified is not valid."),
    "InvalidPolicyDocument": Code(
        400, "The content of the form does not meet the conditions specified in the policy document."
    ),
    "MalformedACLError": Code(400, "The XML you provided was not well-formed or did not validate against our schema"),
    "MalformedPOSTRequest": Code(400, "The body of your POST request is not well-formed multipart/form-data."),
    "MalformedPolicy": Code(400, "Policies must be valid JSON and the first byte must be '{'"),
    "MalformedTrailerError": Code(400, "The chunks or trailers of the body are not in the form that was announced."),
    "MalformedXML": Code(400, "The XML you provided was not well-formed or did not validate against our schema."),
    "MaxPostPreDataLengthExceeded": Code(400, "Your POST request fields preceding the upload file were too large."),
    "MaxMessageLengthExceeded": Code(400, "Your request was too big."),
    "MetadataTooLarge": Code(400, "Your metadata headers exceed the maximum allowed metadata size."),
    "MethodNotAllowed": Code(405, "The specified method is not allowed against this resource."),
    "MissingContentLength": Code(411, "You must provide the Content-Length HTTP header."),
    "MissingRequestBodyError": Code(400, "Request body is empty."),
    "MissingSecurityHeader": Code(400, "Your request was missing a required header"),
    "UnexpectedContent": Code(400, "This request does not support content"),
    "NoSuchBucketPolicy": Code(404, "The bucket policy does not exist"),
    "NoSuchCORSConfiguration": Code(404, "The CORS configuration does not exist"),
    "NoSuchPublicAccessBlockConfiguration": Code(404, "The public access block configuration was not found"),
    "OwnershipControlsNotFoundError": Code(404, "The bucket ownership controls were not found"),
    "ServerSideEncryptionConfigurationNotFoundError": Code(
        404, "The server side encryption configuration was not found"
    ),
    "UnresolvableGrantByEmailAddress": Code(
        400, "The e-mail address you provided does not match any account on record."
    ),
    "NoSuchBucket": Code(404, "The specified bucket does not exist."),
    "NoSuchKey": Code(404, "The specified key does not exist."),
    "NoSuchLifecycleConfiguration": Code(404, "The lifecycle configuration does not exist"),
    "NoSuchObjectLockConfiguration": Code(404, "The specified object does not have an ObjectLock configuration."),
    "NoSuchTagSet": Code(404, "There is no tag set associated with the bucket."),
    "ObjectLockConfigurationNotFoundError": Code(404, "Object Lock configuration does not exist for this bucket."),
    "NoSuchUpload": Code(
        404,
        "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been "
        "aborted or completed.",
    ),
    "NoSuchVersion": Code(404, "The specified version does not exist."),
    "NotImplemented": Code(501, "A header or operation you provided implies functionality that is not implemented."),
    "PreconditionFailed": Code(412, "At least one of the pre-conditions you specified did not hold."),
    "QuotaExceeded": Code(403, "The quota does not allow it."),
    "RequestHeaderSectionTooLarge": Code(400, "Your request header and query parameters exceed the maximum size."),
    "RequestTimeTooSkewed": Code(403, "The difference between the request time and the current time is too large."),
    "RequestTimeout": Code(400, "Your socket connection was not read from or written to within the timeout period."),
    "ServiceUnavailable": Code(503, "The service does not answer now. Please try again."),
    "SignatureDoesNotMatch": Code(
        403,
        "The request signature we calculated does not match the signature you provided. Check your key and signing "
        "method.",
    ),
    "InsufficientStorage": Code(507, "The pool is full."),
    "XAmzContentSHA256Mismatch": Code(
        400, "The provided 'x-amz-content-sha256' header does not match what was computed."
    ),
}


class S3Error(errors.Refused):
    """An error in the words of the protocol. ``details`` become further elements of the error document."""

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        status: int = 0,
        headers: tuple[tuple[str, str], ...] = (),
        **details: str,
    ) -> None:
        known = CODES[code]
        super().__init__(message or known.message)
        self.code = code
        self.status = status or known.status
        self.message = message or known.message
        self.headers = headers
        self.details = details


_BY_CLASS: tuple[tuple[type[errors.SiltstoneError], str, bool], ...] = (
    # class, code, whether the core's message may go to the client; more special classes first
    (XmlInvalid, "MalformedXML", False),
    (errors.NoSuchBucket, "NoSuchBucket", False),
    (errors.NoSuchUpload, "NoSuchUpload", False),
    (errors.NoSuchVersion, "NoSuchVersion", False),
    (errors.NotFound, "NoSuchKey", False),
    (errors.IsDeleteMarker, "MethodNotAllowed", False),
    (errors.PreconditionFailed, "PreconditionFailed", False),
    (errors.AccessDenied, "AccessDenied", False),
    (errors.NotPermitted, "AccessDenied", True),
    (errors.ReadOnly, "AccessDenied", True),
    (errors.InvalidPart, "InvalidPart", False),
    (errors.InvalidPartOrder, "InvalidPartOrder", False),
    (errors.PartTooSmall, "EntityTooSmall", True),
    (errors.NameTooLong, "KeyTooLongError", True),
    (errors.FileTooLarge, "EntityTooLarge", False),
    (errors.NotADirectory, "InvalidArgument", True),
    (errors.IsADirectory, "InvalidArgument", True),
    (errors.InvalidArgument, "InvalidArgument", True),
    (errors.AlreadyExists, "BucketAlreadyExists", False),
    (errors.DirectoryNotEmpty, "BucketNotEmpty", False),
    (errors.NotSupported, "NotImplemented", True),
    (errors.NoSpace, "InsufficientStorage", False),
    (errors.QuotaExceeded, "QuotaExceeded", True),
    (errors.Refused, "InvalidRequest", True),
    (errors.Unavailable, "ServiceUnavailable", False),
    (errors.SiltstoneError, "InternalError", False),
)


def s3_error(error: errors.SiltstoneError) -> S3Error:
    """What the client hears of an error: itself if it is one of the protocol, else by the table."""
    if isinstance(error, S3Error):
        return error
    for kind, code, tells in _BY_CLASS:
        if isinstance(error, kind):
            return S3Error(code, str(error) if tells else "")
    raise AssertionError(f"no code for {type(error).__name__}")


def error_document(error: S3Error, *, resource: str, request_id: str) -> bytes:
    """The body of an error reply; any XML parser reads it, whatever the request held that is quoted in it."""
    texts = [("Code", error.code), ("Message", error.message), *error.details.items()]
    texts += [("Resource", resource), ("RequestId", request_id), ("HostId", "siltstone")]
    children: list[Element] = [(name, _CONTROL.sub("\ufffd", text)) for name, text in texts]
    return render("Error", children, namespace=False)


def reason(status: int) -> str:
    """The reason phrase of a status line."""
    return HTTPStatus(status).phrase
