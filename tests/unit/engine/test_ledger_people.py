"""Contacts that lie with two customers: their ids stay, and they have one end."""

from itertools import permutations

from engine.judging.ledger import carried, presumed, settled, united
from features.facts import EXTERNAL, Contact, Item, State

ONE, TWO = "1" * 16, "2" * 16
UID = "u" * 12
EXPIRY = 1_000_000
ITEMS = (Item(None, "promotion"),)


def contact(state: State, uid: str = UID) -> Contact:
    return Contact(uid, 10, "sms", ITEMS, state, EXPIRY if state == "reserved" else 0)


def test_a_contact_keeps_its_whole_id_elsewhere_and_its_own_when_it_comes_home() -> None:
    (away,) = carried([contact("confirmed")], ONE, TWO)
    assert away.uid == EXTERNAL + ONE + UID
    (home,) = carried([away], TWO, ONE)
    assert home == contact("confirmed")


def test_an_id_of_the_outside_is_carried_as_it_is() -> None:
    outside = contact("confirmed", EXTERNAL + "x-1")
    assert carried([outside], ONE, TWO) == (outside,)


def test_only_a_reservation_is_presumed_sent_and_in_its_last_moment() -> None:
    for state in ("confirmed", "released"):
        assert presumed(contact(state)) == contact(state)
    sent = presumed(contact("reserved"))
    assert (sent.state, sent.at, sent.expires_at) == ("confirmed", EXPIRY - 1, EXPIRY)
    assert presumed(sent) == sent


def test_an_open_contact_is_a_reservation_at_home_and_presumed_sent_elsewhere() -> None:
    away = contact("reserved", EXTERNAL + ONE + UID)
    assert settled([away], TWO, {TWO}) == (presumed(away),)
    (home,) = settled([presumed(away)], TWO, {ONE, TWO})
    assert (home.state, home.expires_at) == ("reserved", EXPIRY)
    own = contact("reserved")
    assert settled([own], TWO, {TWO}) == (own,)


def test_of_a_contact_that_lies_with_both_the_end_that_is_known_wins_from_either_side() -> None:
    ranked = [presumed(contact("reserved")), contact("reserved"), contact("released"), contact("confirmed")]
    for one, two in permutations(range(4), 2):
        assert united([ranked[one]], [ranked[two]]) == (ranked[max(one, two)],)


def test_a_union_loses_nothing_and_is_in_order() -> None:
    late, early = contact("confirmed", "b" * 12), Contact("a" * 12, 5, "sms", ITEMS)
    assert united([late], [early]) == (early, late)
