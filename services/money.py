"""Money: an integer of minor units and a currency. Never a float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

CurrencyCode = NewType("CurrencyCode", str)

# ISO 4217: how many decimal places the minor unit stands for.
_PLACES_NOT_TWO = {
    "BHD": 3, "CLP": 0, "IQD": 3, "ISK": 0, "JOD": 3, "JPY": 0, "KRW": 0, "KWD": 3, "LYD": 3,
    "OMR": 3, "PYG": 0, "RWF": 0, "TND": 3, "UGX": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0,
    "XPF": 0,
}  # fmt: skip
_PLACES_TWO = (
    "AED ALL AMD ANG ARS AUD AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CNY "
    "COP CRC CUP CVE CZK DKK DOP DZD EGP ETB EUR FJD GBP GEL GHS GMD GTQ GYD HKD HNL HTG HUF IDR "
    "ILS INR IRR JMD KES KGS KHR KYD KZT LAK LBP LKR LRD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR "
    "MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR "
    "SEK SGD SOS SRD SSP STN SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD YER "
    "ZAR ZMW"
)
MINOR_UNIT_PLACES = {**dict.fromkeys(_PLACES_TWO.split(), 2), **_PLACES_NOT_TWO}

# Far from the edge of 64 bits, so that sums of many amounts stay inside.
AMOUNT_MAX_MINOR = 10**14
BALANCE_MAX_MINOR = 4 * 10**18


class UnknownCurrencyError(ValueError):
    """Not an ISO 4217 code that is known here."""


def currency(code: str) -> CurrencyCode:
    """The code, once it is known. Raises UnknownCurrencyError."""
    if code not in MINOR_UNIT_PLACES:
        raise UnknownCurrencyError(f"{code!r} is not a known ISO 4217 currency code")
    return CurrencyCode(code)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units of one currency; may be negative."""

    currency_code: CurrencyCode
    amount_minor: int

    def __str__(self) -> str:
        """For people: 12.30 EUR, 1230 JPY."""
        places = MINOR_UNIT_PLACES[self.currency_code]
        sign = "-" if self.amount_minor < 0 else ""
        digits = str(abs(self.amount_minor)).rjust(places + 1, "0")
        whole, fraction = digits[: len(digits) - places], digits[len(digits) - places :]
        number = f"{whole}.{fraction}" if places else whole
        return f"{sign}{number} {self.currency_code}"
