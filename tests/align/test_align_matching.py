import numpy as np

from musedeep.align.matching import first_offsets, match_all, merged, pairs_to_compare, vote


def test_the_vote_finds_a_large_shift_among_many_strangers():
    rng = np.random.default_rng(1)
    places = rng.uniform(-30, 30, (60, 2))
    others = np.concatenate([places[:25] + (21.3, -17.8), rng.uniform(-30, 30, (35, 2))])
    result = vote(0, 1, places + rng.normal(0, 0.01, (60, 2)), others, (30.0, 4.0), 60)
    np.testing.assert_allclose(result.shift, (-21.3, 17.8), atol=0.02)
    assert result.count >= 24 and result.score > 20


def test_with_too_few_bins_strangers_outvote_the_shift():
    rng = np.random.default_rng(8)
    places = rng.uniform(-30, 30, (60, 2))
    others = np.concatenate([places[:12] + (21.3, -17.8), rng.uniform(-30, 30, (48, 2))])
    fine, coarse = (vote(0, 1, places, others, (30.0,), bins) for bins in (60, 4))
    np.testing.assert_allclose(fine.shift, (-21.3, 17.8), atol=0.02)
    assert np.hypot(*(coarse.shift - fine.shift)) > 1.0 and coarse.score < fine.score


def test_three_stars_are_enough():
    places = np.array([[0.0, 0.0], [5.0, 3.0], [-4.0, 7.0]])
    result = vote(0, 1, places, places - (8.25, 1.5), (30.0,), 60)
    np.testing.assert_allclose(result.shift, (8.25, 1.5), atol=1e-9)
    assert result.count == 3


def seam(rng, common):
    """Two fields that share a strip 4 arcsec wide with a few sources, the first ones of both."""
    places, others = rng.uniform(-30, 30, (40, 2)), rng.uniform(-30, 30, (40, 2)) + (56.0, 0.0)
    places[:common, 0] = rng.uniform(26, 30, common)
    others[:common] = places[:common] - (0.3, -0.5)
    return places, others


def test_few_pairs_are_believed_near_the_header_only():
    rng = np.random.default_rng(4)
    places, others = seam(rng, 5)
    result = vote(0, 1, places, others, (30.0, 4.0, 0.8), 60)
    np.testing.assert_allclose(result.shift, (0.3, -0.5), atol=1e-9)
    assert result.score > 2
    others[:5, 1] = rng.uniform(-30, 30, 5)
    assert vote(0, 1, places, others, (30.0, 4.0, 0.8), 60).score < 2


def test_what_should_be_seen_and_is_not_speaks_against_a_shift():
    rng = np.random.default_rng(5)
    places, others = rng.uniform(-30, 30, (2, 40, 2))
    others[:5] = places[:5] - (0.3, -0.5)
    # both exposures see all of the field, yet agree on five of forty sources only
    assert vote(0, 1, places, others, (30.0, 4.0, 0.8), 60).score < 2


def test_lists_are_merged_with_each_source_once():
    found = merged([np.array([[0.0, 0.0], [5.0, 5.0]]), np.array([[5.1, 5.0], [9.0, 9.0]]), np.empty((0, 2))])
    np.testing.assert_allclose(found, [[0.0, 0.0], [5.0, 5.0], [9.0, 9.0]])


def test_nothing_within_reach_gives_no_vote():
    assert vote(0, 1, np.zeros((2, 2)), np.full((2, 2), 50.0), (30.0,), 60) is None


def test_one_wrong_vote_does_not_spoil_the_others():
    rng = np.random.default_rng(2)
    truth = rng.uniform(-3, 3, (6, 2))
    places = rng.uniform(-20, 20, (20, 2))
    votes = [
        vote(n, m, places + truth[n], places + truth[m], (10.0,), 40) for n in range(6) for m in range(n)
    ]
    votes[3].shift[:] += 5.0
    shifts, groups = first_offsets(6, votes)
    assert len(set(groups)) == 1
    np.testing.assert_allclose(shifts, truth - truth.mean(axis=0), atol=0.02)


def test_exposures_without_votes_are_groups_of_their_own():
    shifts, groups = first_offsets(3, [])
    assert len(set(groups)) == 3 and not shifts.any()


def test_pairs_grow_with_the_number_of_exposures_only():
    places = [np.random.default_rng(n).uniform(-30, 30, (10, 2)) for n in range(200)]
    pairs = pairs_to_compare(places, np.zeros((200, 2)), 30.0)
    assert len(pairs) <= 200 * 8
    votes = [vote(n, m, places[0], places[0], (5.0,), 10) for n, m in pairs]
    assert len(set(first_offsets(200, votes)[1])) == 1
    far = np.column_stack([np.arange(200) * 1000.0, np.zeros(200)])
    assert pairs_to_compare([p + c for p, c in zip(places, far, strict=True)], far, 30.0) == []


def test_sources_of_all_exposures_get_one_number():
    rng = np.random.default_rng(3)
    truth = rng.uniform(-30, 30, (25, 2))
    seen = [np.flatnonzero(rng.random(25) < 0.7) for _ in range(10)]
    positions = [truth[rows] + rng.normal(0, 0.02, (len(rows), 2)) for rows in seen]
    positions[4] = np.concatenate([positions[4], [[55.0, 55.0]]])
    found = match_all(positions, [np.full(len(p), 0.02) for p in positions], 0.8)
    for number in range(len(found.position)):
        members = found.source == number
        names = {seen[e][r] for e, r in zip(found.exposure[members], found.row[members], strict=True)}
        assert len(names) == 1 and members.sum() >= 2
    assert len(found.position) == 25


def test_two_sources_are_enough_where_their_fluxes_agree():
    # two sources in a seam, none of the others in common; and the same without any in common
    rng = np.random.default_rng(5)
    sure = {"alike": [], "places alone": [], "strangers": []}
    for _ in range(60):
        shift = rng.normal(0, 0.8, 2)
        seam = np.array([[20.0, -8.0], [20.5, 11.0]]) + rng.uniform(-1, 1, (2, 2))
        places = np.concatenate([seam, rng.uniform((-20, -20), (19, 20), (25, 2))]) + shift
        others = np.concatenate([seam, rng.uniform((22, -20), (60, 20), (25, 2))])
        bright, fluxes = np.exp(rng.uniform(8, 11.5, (2, 27)))
        fluxes[:2] = bright[:2] * np.exp(rng.normal(0, 0.02, 2))
        radii = (30.0, 4.0, 2.0, 0.8)
        found = vote(0, 1, places, others, radii, 60, (bright, fluxes))
        sure["alike"].append(found.score > 2 and np.hypot(*(found.shift - shift)) < 0.3)
        sure["places alone"].append(vote(0, 1, places, others, radii, 60).score > 2)
        found = vote(0, 1, places[2:], others[2:], radii, 60, (bright[2:], fluxes[2:]))
        sure["strangers"].append(found.score > 2)
    assert np.mean(sure["alike"]) > 0.7 and np.mean(sure["places alone"]) < 0.3
    assert np.mean(sure["strangers"]) < 0.03
