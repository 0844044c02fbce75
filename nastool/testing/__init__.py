"""Contract tests that every plugin must pass, importable by plugin authors (needs the extra nastool[test]).

    from nastool.testing.strategies import StrategyContract

    class TestMine(StrategyContract):
        @pytest.fixture
        def make(self):
            return lambda space, seed: MyStrategy(space, seed=seed)

        @pytest.fixture
        def space(self):
            return NasBench201()

Also `nastool.testing.spaces.SpaceContract` and `nastool.testing.evaluators.EvaluatorContract`. nastool's own
tests run the same classes over everything that is registered.
"""
